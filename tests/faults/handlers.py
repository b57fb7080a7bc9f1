"""What the workers run. Every attempt is in the ledger before it does anything."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from faults.ledger import VARIABLE, Ledger
from headrace_worker import Context, Retry, RetryPolicy, handler

WORK_POLICY = RetryPolicy(
    max_attempts=5, initial_backoff=timedelta(seconds=0.2), max_backoff=timedelta(seconds=2)
)


class Work(Struct, frozen=True, forbid_unknown_fields=True):
    """What to do, in the order: fail, report, emit, take time."""

    seconds: Annotated[float, Meta(ge=0, le=600)] = 0.1
    failures: Annotated[int, Meta(description="Attempts that fail first.", ge=0, le=4)] = 0
    reports: Annotated[int, Meta(description="How often to tell the progress.", ge=0)] = 0
    chunks: Annotated[int, Meta(description="Pieces of output.", ge=0)] = 0


@cache
def _ledger() -> Ledger:
    return Ledger(Path(os.environ[VARIABLE]))


@handler("work", retry=WORK_POLICY, timeout=timedelta(minutes=10))
async def work(payload: Work, ctx: Context) -> None:
    """Takes its time, as told."""
    attempt = ctx.attempt
    _ledger().append(str(attempt.job_id), attempt.number)
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
