"""The runners of handlers outside the worker's event loop: threads and processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import structlog

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.job import JsonText
from headrace_worker.api.context import Attempt, Reporter
from headrace_worker.api.payload import encode
from headrace_worker.api.registry import RegisteredHandler
from headrace_worker.metrics import Counts
from headrace_worker.runners.process_pool import ProcessPool
from headrace_worker.runners.thread import ThreadRunner

_log = structlog.get_logger()


class Runners:
    """Run handlers outside the event loop, and count the handlers that were left behind.

    Args:
        processes: the pool for handlers that need a separate process.
        grace: the time for a cancelled handler to end on its own, in seconds.
        counts: counts the handlers that were left behind.
    """

    def __init__(self, *, processes: ProcessPool, grace: float, counts: Counts) -> None:
        self._processes = processes
        self._threads = ThreadRunner(
            grace=grace,
            on_left_behind=lambda attempt: self.report_left_behind(attempt.key, attempt.type),
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
