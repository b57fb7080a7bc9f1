"""Handlers that fail and log in each of the three modes: loop, thread and process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pydantic
import structlog

from headrace_worker import Context, Fail, RetryPolicy, SyncContext, handler

# An application may configure its logging when it is imported.
logging.basicConfig(level=logging.ERROR, force=True)
structlog.configure(processors=[structlog.processors.KeyValueRenderer()])

_log = logging.getLogger(__name__)
_structlog = structlog.get_logger()

_ONE_ATTEMPT = RetryPolicy(max_attempts=1)
_TWO_ATTEMPTS = RetryPolicy(max_attempts=2, initial_backoff=timedelta(milliseconds=1))

HUGE_TEXT = "x\x00\udcff" + "y" * 100_000


class Card(pydantic.BaseModel):
    """A type that only this module defines."""

    number: int


def charge(payload: dict[str, Any]) -> None:
    """Fail in a function that the handler calls; the error has a cause."""
    card = payload["card"]
    try:
        Card(number=card)
    except pydantic.ValidationError as error:
        raise RuntimeError("the card was declined") from error


def raise_hostile_error(payload: dict[str, Any]) -> None:
    """Raise an error that neither a log nor a database can store unchanged."""
    if payload["fail"]:
        raise Fail(HUGE_TEXT, type=HUGE_TEXT)
    raise type(f"E{'r' * 100_000}", (Exception,), {})(HUGE_TEXT)


def raise_group(payload: dict[str, Any]) -> None:
    """Raise a group of exceptions."""
    raise ExceptionGroup("two", [ValueError("first"), KeyError("second")])


def log_lines(payload: dict[str, Any]) -> None:
    """Log more lines than the limit."""
    _log.info("by %s", "logging")
    _structlog.info("by_structlog", rows=3)
    _log.debug("too low")
    for number in range(1000):
        _log.info("flood %d", number)


@handler("d.wait.loop", retry=_ONE_ATTEMPT, timeout=0.2)
async def wait_in_loop(payload: Any) -> None:
    """Exceed the timeout."""
    await wait_for_a_bank()


async def wait_for_a_bank() -> None:
    """Wait in a function that the stack trace of a timeout must show."""
    await asyncio.Event().wait()


@handler("d.wait.thread", retry=_ONE_ATTEMPT, timeout=0.2)
def wait_in_thread(payload: Any, ctx: SyncContext) -> None:
    """Exceed the timeout, and stop when cancelled."""
    ctx.cancel_event.wait()


@handler("d.cancelled.loop", retry=_ONE_ATTEMPT)
async def cancelled_from_within(payload: Any) -> None:
    """Raise CancelledError without a cancellation."""
    raise asyncio.CancelledError


def _register(name: str, work: Callable[[dict[str, Any]], None]) -> None:
    async def in_loop(payload: dict[str, Any], ctx: Context) -> str:
        work(payload)
        await asyncio.sleep(0)
        return ctx.correlation_id

    def in_thread(payload: dict[str, Any], ctx: SyncContext) -> str:
        work(payload)
        return ctx.correlation_id

    def in_process(payload: dict[str, Any], ctx: SyncContext) -> str:
        work(payload)
        return ctx.correlation_id

    handler(f"d.{name}.loop", retry=_TWO_ATTEMPTS)(in_loop)
    handler(f"d.{name}.thread", retry=_TWO_ATTEMPTS)(in_thread)
    handler(f"d.{name}.process", retry=_TWO_ATTEMPTS, isolation="process")(in_process)


for _work in (charge, raise_hostile_error, raise_group, log_lines):
    _register(_work.__name__, _work)
