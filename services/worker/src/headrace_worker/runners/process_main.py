"""The handler process, which `process_pool` starts.

Usage: `python -m headrace_worker.runners.process_main SETTINGS`, with a `LogSettings` as JSON.

The process receives one run at a time on its standard input, and responds on its original
standard output. The output of handlers is redirected to standard error. When the worker ends, the
input closes; the process then kills its descendants and exits.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from headrace_core.domain.job import JobError
from headrace_core.domain.trace import TraceContext
from headrace_core.runtime import logs
from headrace_core.runtime.tasks import run_to_end
from headrace_core.runtime.tracing import continue_trace
from headrace_worker.api.context import Context, SyncContext
from headrace_worker.api.errors import Fail, Retry
from headrace_worker.api.failure import describe, stack_trace
from headrace_worker.api.payload import PayloadMismatch, encode
from headrace_worker.api.registry import RegisteredHandler, registry
from headrace_worker.runners import frames
from headrace_worker.runners.channel import Channel
from headrace_worker.runners.children import (
    children_of,
    end_forks_of_loop,
    exit_if_forked,
    keep_signals_from_forks,
    with_descendants,
)
from headrace_worker.runners.handler_logs import HandlerLines
from headrace_worker.runners.job_log import LogLimits
from headrace_worker.runners.link import Link, RunLog
from headrace_worker.runners.loop import RemoteError, call
from headrace_worker.runners.ownership import Owner, owned_context

# When memory runs out, the kernel kills this process before the worker. proc(5): -1000 to 1000.
_OOM_SCORE = "1000"
# prctl(2).
_PR_SET_CHILD_SUBREAPER = 36


def _perform(
    link: Link,
    loop: asyncio.AbstractEventLoop,
    run: frames.Run,
    limits: LogLimits,
    set_up_logs: Callable[[], None],
) -> frames.Returned | frames.Raised:
    reports = link.start_run()
    log = RunLog(link, reports, limits)
    owner: Owner | None = None
    try:
        if run.module not in sys.modules:
            importlib.import_module(run.module)
            set_up_logs()
        attempt = replace(run.attempt, ends=time.monotonic() + run.time_left)
        handler = registry.get(attempt.type)
        assert handler is not None, f"{run.module} does not register {attempt.type}"
        argument = handler.decode(run.payload)
        owner = Owner.of(attempt, module=run.module, log=log)
        # The handler's context variables disappear with this context, as in the worker.
        variables = owned_context(owner)
        if attempt.traceparent:
            variables.run(continue_trace, TraceContext(attempt.traceparent, attempt.tracestate))
        if handler.is_async:
            running = _call(handler, argument, Context(attempt, reports), link)
            result = run_to_end(loop, loop.create_task(running, context=variables))
        else:
            context = SyncContext(
                attempt, reports.report, reports.announce_completion, link.cancelled
            )
            arguments = (argument, context) if handler.takes_context else (argument,)
            result = variables.run(handler.function, *arguments)
        return frames.Returned(result=encode(result))
    except PayloadMismatch as error:
        return _raised("PayloadMismatch", error, kind="payload")
    except Fail as error:
        return _raised(error.type, error, kind="fail")
    except Retry as error:
        wait = error.wait
        after = None if wait is None else wait.total_seconds()
        return _raised("Retry", error, kind="retry", after=after)
    except asyncio.CancelledError as error:
        # The worker ignores this response if it requested the cancellation.
        within = RemoteError("CancelledError", "the handler cancelled itself", stack_trace(error))
        return _raised(within.type, within)
    except RemoteError as error:
        return _raised(error.type, error)
    # A SystemExit is an error of the job, as in the worker.
    except BaseException as error:  # noqa: BLE001
        return _raised(type(error).__name__, error)
    finally:
        if owner is not None:
            owner.close_log()
        log.close()


async def _call(handler: RegisteredHandler, argument: Any, context: Context, link: Link) -> Any:
    task = asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        if not context.cancelled:
            context.cancel_event.set()
            task.cancel()

    link.on_cancel(cancel)
    try:
        arguments = (argument, context) if handler.takes_context else (argument,)
        return await call(handler.function, *arguments)
    finally:
        link.on_cancel(None)


def _raised(
    name: str, error: BaseException, *, kind: str = "error", after: float | None = None
) -> frames.Raised:
    # JobError cleans and truncates the texts. A text that the link cannot carry would end the
    # process.
    described = JobError(
        type=name, message=describe(error), retryable=False, stack_trace=stack_trace(error)
    )
    return frames.Raised(
        kind=kind,
        type=described.type,
        message=described.message,
        after=after,
        stack_trace=described.stack_trace,
    )


def _receive(link: Link) -> None:
    try:
        link.receive()
    finally:
        # Without the worker, the result and the children are useless.
        for pid in with_descendants(children_of()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(0)


def _adopt_orphans() -> None:
    """Adopt orphaned descendants, so that this process can find them."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def _iterate() -> None:
    """Wait for one iteration of the loop, including its wake-up."""
    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    loop.call_soon_threadsafe(woken.set_result, None)
    await woken


def main(log_settings: str) -> None:
    """Serve the worker until it ends."""
    settings = frames.decode_log_settings(log_settings)
    # Only the worker ends this process, even if a supervisor signals the whole process group. The
    # signals get an empty handler, because children would inherit ignored signals.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    keep_signals_from_forks()
    end_forks_of_loop()
    _adopt_orphans()
    channel = Channel()
    set_up_logs = logs.configure(settings, service="worker", foreign=HandlerLines.of(settings))
    try:
        _serve(channel, LogLimits.of(settings), set_up_logs)
    except BaseException:  # noqa: BLE001 - a normal exit would abort: a thread reads the source
        traceback.print_exc()
        os._exit(1)


def _serve(channel: Channel, limits: LogLimits, set_up_logs: Callable[[], None]) -> None:
    # One loop serves all runs, so clients that a handler module stores remain usable.
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    link = Link(channel.source, channel.sink, loop)
    threading.Thread(target=_receive, args=(link,), name="link", daemon=True).start()
    pid = os.getpid()
    while True:
        run = run_to_end(loop, loop.create_task(link.next_run()))
        end = _perform(link, loop, run, limits, set_up_logs)
        exit_if_forked(pid, 0 if isinstance(end, frames.Returned) else 1)
        channel.fill_standard_descriptors()
        if not channel.is_intact:
            os._exit(frames.CHANNEL_LOST)
        # If the handler closed the loop's descriptors, fail here instead of in the next run.
        run_to_end(loop, loop.create_task(_iterate()))
        end.last = bool(children_of())
        link.end(end)


if __name__ == "__main__":
    main(*sys.argv[1:])
