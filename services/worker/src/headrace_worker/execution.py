"""One attempt, from its claim to its end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

import structlog

from headrace_core.domain.delivery import ClaimedJob
from headrace_core.domain.finish import Finish
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.job import JobError
from headrace_core.domain.lifecycle import EventType
from headrace_worker.context import Attempt
from headrace_worker.modes import Modes
from headrace_worker.registry import RegisteredHandler
from headrace_worker.reporting import AttemptReporter
from headrace_worker.verdict import HandlerTimeout, expired, failed, raised, succeeded

_log = structlog.get_logger()


class StopReason(Enum):
    """Why an attempt is stopped from outside."""

    # Its cancellation was asked for.
    CANCEL = auto()
    # The worker drains.
    DRAIN = auto()
    # The worker's lease is lost: somebody else decides about the job.
    LOST = auto()


class Execution:
    """One attempt of a job.

    Args:
        job: the claimed job.
        worker_id: under which it was claimed.
        handler: its handler; None when this worker has none.
        modes: runs it.
        reporter: takes what it says.
        max_result_bytes: the largest result.
    """

    def __init__(
        self,
        *,
        job: ClaimedJob,
        worker_id: WorkerId,
        handler: RegisteredHandler | None,
        modes: Modes,
        reporter: AttemptReporter,
        max_result_bytes: int,
    ) -> None:
        self.job = job
        self.worker_id = worker_id
        self._handler = handler
        self._modes = modes
        self._reporter = reporter
        self._max_result_bytes = max_result_bytes
        self._stop = asyncio.Event()
        self._reason: StopReason | None = None

    def stop(self, reason: StopReason) -> None:
        """Ends the attempt soon. The first reason stands, but for the loss of the lease."""
        if self._reason is None or reason is StopReason.LOST:
            self._reason = reason
        self._stop.set()

    async def run(self) -> Finish | None:
        """Runs the handler to its end; returns how it ended, or None when that is not ours to say.

        It never raises, but for its own cancellation.
        """
        if self._handler is None:
            return failed(
                self.job,
                JobError(
                    type="NO_HANDLER",
                    message=f"the worker has no handler of type {self.job.type!r}",
                    retryable=False,
                ),
            )
        timeout = self.job.timeout or self._handler.spec.timeout
        left = self.job.time_left
        ends_at_deadline = left is not None and left < timeout
        if left is not None and ends_at_deadline:
            timeout = max(left, timedelta())
        work = asyncio.create_task(
            self._modes.run(self._handler, self.job.payload, self._attempt(timeout), self._reporter)
        )
        try:
            timed_out = await self._watch(work, timeout.total_seconds())
        finally:
            # Ends it when this task is cancelled; else it has ended.
            work.cancel()
        finish = self._judge(
            work, timed_out=timed_out, ends_at_deadline=ends_at_deadline, timeout=timeout
        )
        await self._reporter.close()
        return finish

    def _attempt(self, timeout: timedelta) -> Attempt:
        return Attempt(
            job_id=self.job.id,
            number=self.job.attempt,
            type=self.job.type,
            queue=self.job.queue,
            tenant=self.job.tenant,
            labels=self.job.labels,
            deadline=datetime.now(UTC) + timeout,
        )

    async def _watch(self, work: asyncio.Task[str], timeout_s: float) -> bool:
        """Waits until the work has ended, by itself or stopped; tells whether its time was up."""
        stopping = asyncio.create_task(self._stop.wait())
        try:
            done, _ = await asyncio.wait(
                {work, stopping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopping.cancel()
        if work not in done:
            # The mode ends the handler, within its grace.
            work.cancel()
            await asyncio.wait({work})
        return not done

    def _judge(
        self,
        work: asyncio.Task[str],
        *,
        timed_out: bool,
        ends_at_deadline: bool,
        timeout: timedelta,
    ) -> Finish | None:
        assert self._handler is not None
        if self._reason is StopReason.LOST:
            return None
        if not work.cancelled() and work.exception() is None and not timed_out:
            # It finished first, whatever was asked meanwhile.
            return succeeded(self.job, work.result(), max_bytes=self._max_result_bytes)
        if self._reason is StopReason.CANCEL:
            return self._ended(EventType.CANCELLED)
        if timed_out and ends_at_deadline:
            return expired(self.job)
        if self._reason is StopReason.DRAIN and work.cancelled():
            return self._ended(EventType.INTERRUPTED)
        policy = self.job.retry.over(self._handler.spec.retry)
        error: BaseException | None
        if timed_out:
            error = HandlerTimeout(f"the attempt did not end within {timeout.total_seconds():g} s")
        elif work.cancelled():
            error = asyncio.CancelledError("the handler was cancelled from within")
        else:
            error = work.exception()
        assert error is not None
        return raised(self.job, error, policy)

    def _ended(self, event: EventType) -> Finish:
        return Finish(job_id=self.job.id, attempt=self.job.attempt, event=event)
