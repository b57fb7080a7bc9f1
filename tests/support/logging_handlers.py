"""Handlers that log, for a worker process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from datetime import timedelta
from typing import Any

import structlog

from headrace_worker import Context, RetryPolicy, SyncContext, handler

_log = logging.getLogger("shop.orders")
_structlog = structlog.get_logger()
_TWO_ATTEMPTS = RetryPolicy(max_attempts=2, initial_backoff=timedelta(), max_backoff=timedelta())


@handler("l.raises", retry=_TWO_ATTEMPTS)
async def raises(payload: dict[str, Any], ctx: Context) -> None:
    """Log an exception, then fail."""
    try:
        {}["missing"]
    except KeyError:
        _log.exception("attempt %d", ctx.attempt.number)
    raise ValueError("later")


@handler("l.levels")
async def levels(payload: dict[str, Any]) -> None:
    """Log a line of each level, and lines of libraries."""
    for level in (10, 20, 25, 30, 40, 50):
        _log.log(level, "level %d", level)
    _structlog.bind(order=7).warning("bound", ratio=float("nan"))
    library = asyncio.SelectorEventLoop()
    library.call_exception_handler({"message": "by a library"})
    library.close()


@handler("l.dies", isolation="process", retry=_TWO_ATTEMPTS)
def dies(payload: dict[str, Any], ctx: SyncContext) -> str:
    """Log a line and die; the second attempt succeeds."""
    if ctx.attempt.number == 1:
        _log.info("before the crash")
        os.kill(os.getpid(), signal.SIGSEGV)
    _log.info("after the crash")
    return "done"


@handler("l.late", timeout=0.2, retry=RetryPolicy(max_attempts=1))
def late(payload: dict[str, Any]) -> None:
    """Log after the end of the attempt."""
    _log.info("in time")
    time.sleep(2)
    _log.info("too late")


@handler("l.threads")
async def threads(payload: dict[str, Any]) -> None:
    """Log many lines from several threads of the handler."""

    def log(name: int) -> None:
        for number in range(50):
            _log.info("%d %d", name, number)

    await asyncio.gather(*(asyncio.to_thread(log, name) for name in range(4)))


@handler("l.forks")
def forks(payload: dict[str, Any]) -> None:
    """Log in a forked process, which has no connection to the worker."""
    pid = os.fork()
    if pid == 0:
        _log.info("in the child")
        os._exit(0)
    os.waitpid(pid, 0)
    _log.info("in the parent, %d threads", min(1, threading.active_count()))


@handler("l.large")
async def large(payload: dict[str, Any]) -> None:
    """Log lines that exceed the limit in bytes."""
    for number in range(100):
        _log.info("%d %s", number, "é" * 600)
