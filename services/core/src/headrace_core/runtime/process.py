"""Runs a service as a process, with settings, logs, uvloop, signals and a clean stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

import pydantic
import structlog
import uvloop

from headrace_core.domain.errors import Unavailable
from headrace_core.domain.retry import RetryPolicy
from headrace_core.runtime import logs
from headrace_core.runtime.settings import Settings, StartRefused, problems
from headrace_core.runtime.tasks import run_to_end
from headrace_core.runtime.variables import misspelled_variables

# sysexits.h: EX_CONFIG.
BAD_CONFIGURATION = 78

# Thresholds of Python's three generations; the defaults are 700, 10 and 10.
_GC_THRESHOLDS = (10_000, 10, 10)

# The waits between two attempts to start a service while a server is unavailable.
_START_BACKOFF = RetryPolicy(
    initial_backoff=timedelta(seconds=1), max_backoff=timedelta(seconds=10), jitter=0.5
)

# Time in which tasks and threads that outlive a stopped service must end, in seconds.
_EXIT_DELAY_S = 0.2

_log = structlog.get_logger()


class Service(Protocol):
    """A service for `run_service`. `stop` respects the grace periods in the settings."""

    async def start(self) -> None:
        """Start the service; return once it serves."""

    async def stop(self) -> None:
        """Stop the service after its current work."""


def run_service(
    name: str,
    create: Callable[[Settings], Service],
    *,
    task_factory: Callable[..., asyncio.Task[Any]] = asyncio.Task,
) -> int:
    """Run a service until SIGTERM or SIGINT.

    Args:
        name: the name of the service, for the logs.
        create: creates the service, inside the running event loop.
        task_factory: creates the tasks of the event loop.

    Returns:
        The exit code: 0 after a clean stop, 78 for invalid settings or a refused start, 1 after a
        failure.
    """
    try:
        settings = Settings()
    except pydantic.ValidationError as error:
        for problem in problems(error):
            sys.stderr.write(f"headrace {name}: {problem}\n")
        return BAD_CONFIGURATION
    logs.configure(settings, service=name)
    for variable, suggestion in misspelled_variables(os.environ).items():
        _log.warning("unknown_setting", name=variable, did_you_mean=suggestion)
    _warn_of_exposures(name, settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        if task_factory is not asyncio.Task:
            loop.set_task_factory(
                lambda loop, coro, **options: task_factory(coro, loop=loop, **options)
            )
        return run_to_end(loop, loop.create_task(_run(create, settings), name="service"))


def _warn_of_exposures(name: str, settings: Settings) -> None:
    """Warn of addresses that only HEADRACE_ALLOW_INSECURE allows, in the log and on stderr."""
    exposures = settings.exposures()
    if not exposures:
        return
    lines = [
        f"headrace {name} is INSECURE (HEADRACE_ALLOW_INSECURE=true):",
        *(f"- {exposure}" for exposure in exposures),
    ]
    rule = "!" * max(len(line) for line in lines)
    sys.stderr.write("\n".join((rule, *lines, rule, "")))
    for exposure in exposures:
        _log.warning("insecure", reason=exposure)


async def _run(create: Callable[[Settings], Service], settings: Settings) -> int:
    code = 0
    try:
        await _serve(create, settings)
    except StartRefused as refused:
        structlog.get_logger().error("start_refused", reason=str(refused))
        code = BAD_CONFIGURATION
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the last place that can log it
        structlog.get_logger().exception("service_failed")
        code = 1
    _exit_soon(code)
    return code


async def _serve(create: Callable[[Settings], Service], settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    postponed = 0
    while not stop.is_set():
        service = create(settings)
        try:
            await service.start()
            _tune_garbage_collector()
            await stop.wait()
        except Unavailable as fault:
            postponed += 1
            wait = _START_BACKOFF.backoff(postponed).total_seconds()
            _log.warning(
                "start_postponed",
                dependency=fault.dependency,
                reason=_unavailable_reason(fault),
                retry_in=round(wait, 1),
            )
        finally:
            await service.stop()
        if not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await stop.wait()


def _unavailable_reason(fault: Unavailable) -> str:
    """Return the server's message, or the error type if the server did not respond."""
    cause = fault.__cause__
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    # A driver's message can contain the URL. A PostgreSQL error has a code and never contains it.
    answer = getattr(cause, "message", None) if hasattr(cause, "sqlstate") else None
    return answer or type(cause or fault).__name__


def _exit_soon(code: int) -> None:
    """End the process soon, even if a task ignores its cancellation or a thread is running."""
    last = threading.Timer(_EXIT_DELAY_S, os._exit, (code,))
    last.daemon = True
    last.start()


def _tune_garbage_collector() -> None:
    """Exclude long-lived objects from cyclic garbage collection, and run it less often.

    Most objects are jobs and events, which have no cycles. The collector still runs often enough
    to free the cycles that handlers create.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
