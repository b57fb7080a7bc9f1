"""The handlers of the workers. Each attempt first records itself in the ledger."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from faults.ledger import LEDGER_VARIABLE, Ledger
from headrace_handlers import http_request
from headrace_worker import Context, Retry, RetryPolicy, handler

WORK_POLICY = RetryPolicy(
    max_attempts=5, initial_backoff=timedelta(seconds=0.2), max_backoff=timedelta(seconds=2)
)

CALL_POLICY = RetryPolicy(
    max_attempts=100, initial_backoff=timedelta(seconds=1), max_backoff=timedelta(seconds=20)
)
# The longest Retry-After in a response to a call.
MAX_RETRY_AFTER = timedelta(seconds=5)


class Work(Struct, frozen=True, forbid_unknown_fields=True):
    """The work of an attempt, in this order: fail, report progress, emit output, sleep."""

    seconds: Annotated[float, Meta(ge=0, le=600)] = 0.1
    failures: Annotated[int, Meta(description="Number of attempts that fail.", ge=0, le=4)] = 0
    reports: Annotated[int, Meta(description="Number of progress reports.", ge=0)] = 0
    chunks: Annotated[int, Meta(description="Number of pieces of output.", ge=0)] = 0


class Call(Work, frozen=True, forbid_unknown_fields=True):
    """Work that starts with an HTTP call."""

    url: Annotated[str, Meta(description="URL of the GET request.")] = ""


@cache
def _ledger() -> Ledger:
    return Ledger(Path(os.environ[LEDGER_VARIABLE]))


@handler("work", retry=WORK_POLICY, timeout=timedelta(minutes=10))
async def work(payload: Work, ctx: Context) -> int:
    """Do the work of the payload and return the attempt number."""
    record_start(ctx)
    await _work(payload, ctx)
    return ctx.attempt.number


@handler("block", retry=WORK_POLICY, timeout=timedelta(minutes=10))
async def block(payload: Work, ctx: Context) -> None:
    """Block the worker's event loop for `seconds` in the first attempt."""
    record_start(ctx)
    if ctx.attempt.number == 1:
        time.sleep(payload.seconds)


@handler("call", retry=CALL_POLICY, timeout=timedelta(minutes=10))
async def call(payload: Call, ctx: Context) -> None:
    """Call a web service as `http_request` does, then do the work of the payload."""
    record_start(ctx)
    await http_request.http_request(http_request.Call(url=payload.url, method="GET"), ctx)
    await _work(payload, ctx)


def record_start(ctx: Context) -> None:
    """Record the start of an attempt in the ledger."""
    _ledger().append(str(ctx.attempt.job_id), ctx.attempt.number)


async def _work(payload: Work, ctx: Context) -> None:
    attempt = ctx.attempt
    steps = 1 + payload.reports + payload.chunks
    if attempt.number <= payload.failures:
        await asyncio.sleep(payload.seconds / 2)
        raise Retry(f"attempt {attempt.number} fails as the payload requires")
    for step in range(payload.reports):
        await asyncio.sleep(payload.seconds / steps)
        await ctx.progress((step + 1) / payload.reports, "working")
    for number in range(payload.chunks):
        await asyncio.sleep(payload.seconds / steps)
        await ctx.emit(f"piece {number}")
    await asyncio.sleep(payload.seconds / steps)


@handler("echo")
async def echo(payload: Any, ctx: Context) -> Any:
    """Return the payload."""
    record_start(ctx)
    return payload
