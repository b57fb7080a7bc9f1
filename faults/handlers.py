"""What the workers run. Every attempt is in the ledger before it does anything."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from faults.ledger import VARIABLE, Ledger
from headrace_handlers import http_request
from headrace_worker import Context, Retry, RetryPolicy, handler

WORK_POLICY = RetryPolicy(
    max_attempts=5, initial_backoff=timedelta(seconds=0.2), max_backoff=timedelta(seconds=2)
)

CALL_POLICY = RetryPolicy(
    max_attempts=100, initial_backoff=timedelta(seconds=1), max_backoff=timedelta(seconds=20)
)
# How long a call that is refused may be told to wait.
LONGEST_RETRY_AFTER = timedelta(seconds=5)


class Work(Struct, frozen=True, forbid_unknown_fields=True):
    """What to do, in the order: fail, report, emit, take time."""

    seconds: Annotated[float, Meta(ge=0, le=600)] = 0.1
    failures: Annotated[int, Meta(description="Attempts that fail first.", ge=0, le=4)] = 0
    reports: Annotated[int, Meta(description="How often to tell the progress.", ge=0)] = 0
    chunks: Annotated[int, Meta(description="Pieces of output.", ge=0)] = 0


class Call(Work, frozen=True, forbid_unknown_fields=True):
    """Work that begins with a call."""

    url: Annotated[str, Meta(description="What is called with GET.")] = ""


@cache
def _ledger() -> Ledger:
    return Ledger(Path(os.environ[VARIABLE]))


@handler("work", retry=WORK_POLICY, timeout=timedelta(minutes=10))
async def work(payload: Work, ctx: Context) -> int:
    """Takes its time, as told; its result is the attempt."""
    note(ctx)
    await _work(payload, ctx)
    return ctx.attempt.number


@handler("block", retry=WORK_POLICY, timeout=timedelta(minutes=10))
async def block(payload: Work, ctx: Context) -> None:
    """Blocks the event loop of its worker for as long, in its first attempt."""
    note(ctx)
    if ctx.attempt.number == 1:
        time.sleep(payload.seconds)


@handler("call", retry=CALL_POLICY, timeout=timedelta(minutes=10))
async def call(payload: Call, ctx: Context) -> None:
    """Calls a web service as `http_request` does, and then takes its time."""
    note(ctx)
    await http_request.http_request(http_request.Call(url=payload.url, method="GET"), ctx)
    await _work(payload, ctx)


def note(ctx: Context) -> None:
    """Writes down that an attempt has begun."""
    _ledger().append(str(ctx.attempt.job_id), ctx.attempt.number)


async def _work(payload: Work, ctx: Context) -> None:
    attempt = ctx.attempt
    steps = 1 + payload.reports + payload.chunks
    if attempt.number <= payload.failures:
        await asyncio.sleep(payload.seconds / 2)
        raise Retry(f"attempt {attempt.number} fails as it was told")
    for step in range(payload.reports):
        await asyncio.sleep(payload.seconds / steps)
        await ctx.progress((step + 1) / payload.reports, "working")
    for number in range(payload.chunks):
        await asyncio.sleep(payload.seconds / steps)
        await ctx.emit(f"piece {number}")
    await asyncio.sleep(payload.seconds / steps)


@handler("echo")
async def echo(payload: Any, ctx: Context) -> Any:
    """Returns whatever it is given."""
    note(ctx)
    return payload
