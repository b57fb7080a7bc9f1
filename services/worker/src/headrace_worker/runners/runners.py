"""The runners of handlers outside the worker's event loop: threads and processes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any

import structlog

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.job import JsonText, Progress
from headrace_worker.api.context import Attempt, Reporter, SyncContext
from headrace_worker.api.failure import attach_stack_trace, thread_stack
from headrace_worker.api.payload import encode
from headrace_worker.api.registry import RegisteredHandler
from headrace_worker.metrics import Counts
from headrace_worker.runners.children import (
    end_children,
    end_children_in_background,
    exit_if_forked,
)
from headrace_worker.runners.job_log import LogSink
from headrace_worker.runners.loop import as_exception
from headrace_worker.runners.ownership import Owner, owned_context
from headrace_worker.runners.process_pool import ProcessPool

_log = structlog.get_logger()


class Runners:
    """Run handlers outside the event loop, and count the handlers that were left behind.

    Args:
        processes: the pool for handlers that need a separate process.
        grace: the time for a cancelled handler to end on its own, in seconds.
        counts: counts the handlers that were left behind.
        log: receives the lines that handlers in threads log; None to store no lines.
    """

    def __init__(
        self, *, processes: ProcessPool, grace: float, counts: Counts, log: LogSink | None
    ) -> None:
        self._processes = processes
        self._threads = ThreadRunner(
            grace=grace,
            on_left_behind=lambda attempt: self.report_left_behind(attempt.key, attempt.type),
            log=log,
        )
        self._grace = grace
        self._counts = counts

    def permit(self, handler: RegisteredHandler) -> AbstractAsyncContextManager[Any]:
        """Return the permit that a handler needs to run; only handlers in processes need one."""
        return self._processes.permits if handler.mode == "process" else nullcontext()

    async def run(
        self,
        handler: RegisteredHandler,
        payload: JsonText,
        attempt: Attempt,
        reporter: Reporter,
        *,
        check: Callable[[], None],
    ) -> JsonText:
        """Run a handler in a thread or a process, with its permit; return its result as JSON.

        If the call is cancelled, it cleans up before it ends.

        Args:
            handler: the handler.
            payload: the payload of its job.
            attempt: the attempt, for the handler's context.
            reporter: receives the handler's reports.
            check: called again when the process has started; its exception ends the attempt.

        Raises:
            PayloadMismatch: the payload does not match the handler's type.
            CancelledError: the caller was cancelled, and the handler has ended or was left behind.
            Exception: the exception of the handler.
        """
        if handler.mode == "process":
            return await self._processes.run(handler, payload, attempt, reporter, check=check)
        argument = handler.decode(payload)
        return encode(await self._threads.run(handler, argument, attempt, reporter))

    def report_left_behind(self, key: AttemptKey, job_type: str) -> None:
        """Count and log a handler that did not end within its grace period."""
        self._counts.left_behind += 1
        _log.warning(
            "handler_left_behind",
            job_id=str(key.job_id),
            attempt=key.attempt,
            type=job_type,
            grace_s=self._grace,
        )


class ThreadRunner:
    """Run each handler in a new daemon thread.

    Therefore, a handler that never ends delays neither other attempts nor the process exit.

    Args:
        grace: the time for a cancelled handler to end on its own, in seconds.
        on_left_behind: called with each attempt whose handler did not end within its grace period.
        log: receives the lines that handlers log; None to store no lines.
    """

    def __init__(
        self, *, grace: float, on_left_behind: Callable[[Attempt], None], log: LogSink | None
    ) -> None:
        self._grace = grace
        self._log = log
        self._on_left_behind = on_left_behind

    async def run(
        self, handler: RegisteredHandler, argument: Any, attempt: Attempt, reporter: Reporter
    ) -> Any:
        """Run a handler and return its result.

        Raises:
            CancelledError: the caller was cancelled, and the handler has ended or was left behind.
            Exception: the exception of the handler.
        """
        loop = asyncio.get_running_loop()
        cancelled = threading.Event()

        def report(item: Progress | JsonText) -> None:
            write = reporter.progress(item) if isinstance(item, Progress) else reporter.output(item)
            asyncio.run_coroutine_threadsafe(write, loop).result()

        def prepare_completion(size: int) -> None:
            asyncio.run_coroutine_threadsafe(reporter.prepare_completion(size), loop).result()

        ctx = SyncContext(attempt, report, prepare_completion, cancelled)
        arguments = (argument, ctx) if handler.takes_context else (argument,)
        future: asyncio.Future[Any] = loop.create_future()

        def resolve(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        pid = os.getpid()

        def target() -> None:
            result, error = None, None
            try:
                result = handler.function(*arguments)
            except BaseException as caught:  # noqa: BLE001 - the future receives it
                error = as_exception(caught)
            exit_if_forked(pid, 0 if error is None else 1)
            end_children(threading.get_native_id())
            owner.close_log()
            # If the handler was left behind, the loop may be closed.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(resolve, result, error)

        owner = Owner.of(attempt, module=handler.function.__module__, log=self._log)
        thread = threading.Thread(
            target=owned_context(owner).run,
            args=(target,),
            name=f"job-{attempt.job_id}",
            daemon=True,
        )
        thread.start()
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if future.done():
                raise
            attach_stack_trace(error, thread_stack(thread.ident))
            cancelled.set()
            await self._await_end(future, attempt)
            if not future.done() and thread.native_id is not None:
                end_children_in_background(thread.native_id)
            raise

    async def _await_end(self, future: asyncio.Future[Any], attempt: Attempt) -> None:
        """Wait until a cancelled handler or its grace period ends."""
        done, _ = await asyncio.wait({future}, timeout=self._grace)
        if not done:
            self._on_left_behind(attempt)
            # asyncio warns about an exception that is never retrieved.
            future.add_done_callback(lambda f: f.cancelled() or f.exception())
        elif not future.cancelled():
            future.exception()
