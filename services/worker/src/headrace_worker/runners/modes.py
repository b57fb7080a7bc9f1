"""The ways to run a handler: in the loop, in a thread, in a process of its own."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any

import structlog

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.job import JsonText, Progress
from headrace_worker.api.context import Attempt, Reporter, SyncContext
from headrace_worker.api.payload import encode
from headrace_worker.api.registry import RegisteredHandler
from headrace_worker.attempt.failure import attach_stack_trace, thread_stack
from headrace_worker.attempt.handler_logs import AttemptLog, logging_as
from headrace_worker.attempt.judge import tame
from headrace_worker.attempt.ownership import owned_by
from headrace_worker.metrics import Counts
from headrace_worker.runners.children import end_children, end_children_soon, leave_fork
from headrace_worker.runners.process_pool import ProcessPool

_log = structlog.get_logger()


class Modes:
    """Runs handlers outside of the loop, by coroutines that clean up when they are cancelled.

    Args:
        processes: for handlers in processes of their own.
        grace: seconds that a cancelled handler has to end by itself.
        counts: has how many handlers were left behind.
    """

    def __init__(self, *, processes: ProcessPool, grace: float, counts: Counts) -> None:
        self._processes = processes
        self._grace = grace
        self._counts = counts

    def place(self, handler: RegisteredHandler) -> AbstractAsyncContextManager[Any]:
        """What a handler needs before it can run: in a process, room for one."""
        return self._processes.place if handler.mode == "process" else nullcontext()

    async def run(
        self,
        handler: RegisteredHandler,
        payload: JsonText,
        attempt: Attempt,
        reporter: Reporter,
        *,
        check: Callable[[], None],
    ) -> JsonText:
        """Runs a handler that has its place, in a thread or a process; returns its result as JSON.

        Args:
            handler, payload, attempt, reporter: what is run.
            check: called once more when a process is there; what it raises ends the attempt.

        Raises:
            PayloadMismatch: the payload does not fit.
            CancelledError: it was cancelled, and has ended or was left behind.
            Exception: whatever the handler raised.
        """
        if handler.mode == "process":
            return await self._processes.run(handler, payload, attempt, reporter, check=check)
        argument = handler.decode(payload)
        return encode(await self._in_thread(handler, argument, attempt, reporter))

    def left_behind(self, key: AttemptKey, job_type: str) -> None:
        """Count and log a handler that did not end within its grace; the worker abandons it."""
        self._counts.left_behind += 1
        _log.warning(
            "handler_left_behind",
            job_id=str(key.job_id),
            attempt=key.attempt,
            type=job_type,
            grace_s=self._grace,
        )

    async def _in_thread(
        self, handler: RegisteredHandler, argument: Any, attempt: Attempt, reporter: Reporter
    ) -> Any:
        loop = asyncio.get_running_loop()
        cancelled = threading.Event()

        def report(item: Progress | JsonText) -> None:
            said = reporter.progress(item) if isinstance(item, Progress) else reporter.output(item)
            asyncio.run_coroutine_threadsafe(said, loop).result()

        def completing(size: int) -> None:
            asyncio.run_coroutine_threadsafe(reporter.completing(size), loop).result()

        ctx = SyncContext(attempt, report, completing, cancelled)
        arguments = (argument, ctx) if handler.takes_context else (argument,)
        future: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
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
            except BaseException as caught:  # noqa: BLE001 - it is told to who waits
                error = tame(caught)
            leave_fork(pid, 0 if error is None else 1)
            end_children(threading.get_native_id())
            attempt_log.close()
            # The loop may be gone by now when the thread was left behind.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, result, error)

        attempt_log = AttemptLog(
            key=attempt.key,
            type=attempt.type,
            correlation_id=attempt.correlation_id,
            module=handler.function.__module__,
        )
        with owned_by(None), logging_as(attempt_log):
            context = contextvars.copy_context()
        # A thread of its own, and a daemon: one that never ends holds up neither another job nor
        # the end of the process.
        thread = threading.Thread(
            target=context.run,
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
                end_children_soon(thread.native_id)
            raise

    async def _await_end(self, future: asyncio.Future[Any], attempt: Attempt) -> None:
        """Waits out the grace of a handler that was told to end."""
        done, _ = await asyncio.wait({future}, timeout=self._grace)
        if not done:
            self.left_behind(attempt.key, attempt.type)
            # Nobody waits for it any more: what it raises later is not news.
            future.add_done_callback(lambda f: f.cancelled() or f.exception())
        elif not future.cancelled():
            future.exception()
