"""Example handlers to read and copy.

A worker loads the modules in HEADRACE_HANDLERS, which must be importable:

    HEADRACE_HANDLERS=handlers PYTHONPATH=examples headrace up

Headrace derives JSON Schemas from the types of payloads and results. The gateway validates a
payload before it stores the job, and `ListHandlers` returns the schemas.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Annotated

from msgspec import Meta, Struct

from headrace_worker import Context, Fail, Retry, RetryPolicy, handler


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """An empty payload: `{}`."""


class Flaky(Struct, frozen=True, forbid_unknown_fields=True):
    """The number of failures."""

    failures: Annotated[int, Meta(description="Number of attempts that fail.", ge=0, le=50)] = 2


class FlakyResult(Struct, frozen=True):
    """The attempt that succeeded."""

    attempt: int


@handler(
    "flaky",
    retry=RetryPolicy(
        max_attempts=5, initial_backoff=timedelta(seconds=0.2), max_backoff=timedelta(seconds=2)
    ),
)
async def flaky(payload: Flaky, ctx: Context) -> FlakyResult:
    """Fail twice, then succeed, like a call to a service that is restarting.

    Headrace retries after any exception, with the job's backoff. `Retry` adds a readable reason,
    and `after=` sets the wait.
    """
    number = ctx.attempt.number
    if number > payload.failures:
        return FlakyResult(attempt=number)
    if number == 1:
        raise ConnectionResetError("the service closed the connection")
    raise Retry(f"the service is still starting (attempt {number})", after=0.3)


@handler("broken")
def broken(payload: Nothing) -> None:  # noqa: ARG001 - handlers require a payload
    """Fail without retries, even if the job has attempts left.

    Raise `Fail` for errors that a retry cannot fix, such as a closed account or a malformed file. A
    `def` runs in a thread. The argument `ctx` is optional.
    """
    raise Fail("this order has no customer", type="OrderInvalid")


class Slow(Struct, frozen=True, forbid_unknown_fields=True):
    """The duration of the job."""

    seconds: Annotated[float, Meta(description="Duration in seconds.", ge=0, le=3600)] = 5.0


class Slept(Struct, frozen=True):
    """The actual duration, in seconds."""

    seconds: float


@handler("slow", timeout=timedelta(hours=1))
async def slow(payload: Slow, ctx: Context) -> Slept:
    """Report progress ten times per second, and stop when cancelled.

    A cancellation sets `ctx.cancelled`, and the handler stops at a safe point. An `async def` is
    also cancelled at its next `await`. A `def` in a thread must check `ctx.cancelled`. A
    handler in a separate process is killed a few seconds later if it does not check.
    """
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < payload.seconds:
        ctx.raise_if_cancelled()
        await ctx.progress(elapsed / payload.seconds, "working", elapsed=round(elapsed, 1))
        await asyncio.sleep(min(0.1, payload.seconds - elapsed))
    await ctx.progress(1, "done")
    return Slept(seconds=round(time.monotonic() - started, 3))
