"""Handlers of one's own, to read and to copy from.

A worker takes them up when it is told where they are, and can import them:

    HEADRACE_HANDLERS=handlers PYTHONPATH=examples headrace up

What a handler takes and returns is typed. From the types come the JSON Schemas against which a
payload is checked before its job is even stored, and which `ListHandlers` shows.
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
    """How often to fail."""

    failures: Annotated[int, Meta(description="Attempts that fail first.", ge=0, le=50)] = 2


class Outcome(Struct, frozen=True):
    """Which attempt made it."""

    attempt: int


@handler(
    "flaky",
    retry=RetryPolicy(
        max_attempts=5, initial_backoff=timedelta(seconds=0.2), max_backoff=timedelta(seconds=2)
    ),
)
async def flaky(payload: Flaky, ctx: Context) -> Outcome:
    """Fails twice, then succeeds, like a service that is just being restarted.

    Any exception is a failure that is tried again with the job's backoff. `Retry` is for those
    that know more: it carries a reason for people, and `after=` when the wait is known.
    """
    number = ctx.attempt.number
    if number > payload.failures:
        return Outcome(attempt=number)
    if number == 1:
        raise ConnectionResetError("the service has hung up")
    raise Retry(f"the service is still starting (attempt {number})", after=0.3)


@handler("broken")
def broken(payload: Nothing) -> None:  # noqa: ARG001 - a handler takes its payload
    """Fails for good: no further attempt is made, however many the job has left.

    `Fail` is for what another attempt cannot mend: an account that was closed, a file that is no
    table. A plain `def` runs in a thread, and a handler that needs no context takes none.
    """
    raise Fail("this order has no customer", type="OrderInvalid")


class Slow(Struct, frozen=True, forbid_unknown_fields=True):
    """How long to take."""

    seconds: Annotated[float, Meta(description="How long, in seconds.", ge=0, le=3600)] = 5.0


class Slept(Struct, frozen=True):
    """How long it took, in seconds."""

    seconds: float


@handler("slow", timeout=timedelta(hours=1))
async def slow(payload: Slow, ctx: Context) -> Slept:
    """Takes its time, tells its progress ten times a second, and stops when it is asked to.

    A cancellation is a request: `ctx.cancelled` becomes true, and the handler stops where stopping
    is clean. An `async def` is cancelled at its `await` as well; a `def` in a thread must look; a
    process that doesn't look is ended a few seconds later.
    """
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < payload.seconds:
        ctx.raise_if_cancelled()
        await ctx.progress(elapsed / payload.seconds, "working", elapsed=round(elapsed, 1))
        await asyncio.sleep(min(0.1, payload.seconds - elapsed))
    await ctx.progress(1, "done")
    return Slept(seconds=round(time.monotonic() - started, 3))
