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
from headrace_worker.verdict import HandlerTimeout, broken, expired, failed, raised, succeeded

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
        try:
            return await self._run()
        except Exception:  # noqa: BLE001 - else the job would stay RUNNING as long as its worker
            _log.exception("execution_failed", job_id=str(self.job.id), attempt=self.job.attempt)
            return broken(self.job)

    async def _run(self) -> Finish | None:
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
        loop = asyncio.get_running_loop()
        left = self.job.time_left
        overdue = None if left is None else loop.time() + left.total_seconds()
        begun = asyncio.Event()
        work = asyncio.create_task(self._work(self._handler, timeout, overdue, begun))
        try:
            # The wait for a place counts for the deadline and not for the timeout.
            timed_out = await self._watch(work, overdue, begun)
            ends_at_deadline = timed_out
            if not timed_out and begun.is_set() and not work.done():
                ends = loop.time() + timeout.total_seconds()
                ends_at_deadline = overdue is not None and overdue < ends
                timed_out = await self._watch(work, overdue if ends_at_deadline else ends)
        finally:
            # Ends it when this task is cancelled; else it has ended.
            work.cancel()
        finish = self._judge(
            work, timed_out=timed_out, ends_at_deadline=ends_at_deadline, timeout=timeout
        )
        await self._reporter.close()
        return finish

    async def _work(
        self,
        handler: RegisteredHandler,
        limit: timedelta,
        overdue: float | None,
        begun: asyncio.Event,
    ) -> str:
        async with self._modes.place(handler):
            begun.set()
            if overdue is not None:
                left = timedelta(seconds=overdue - asyncio.get_running_loop().time())
                limit = min(limit, max(left, timedelta()))
            attempt = self._attempt(limit)
            return await self._modes.run(handler, self.job.payload, attempt, self._reporter)

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

    async def _watch(
        self, work: asyncio.Task[str], until: float | None, begun: asyncio.Event | None = None
    ) -> bool:
        """Waits until the work has ended, by itself or stopped, or has `begun`.

        Returns:
            Whether its time was up, at `until` by the loop's clock.
        """
        waits = [asyncio.create_task(self._stop.wait())]
        if begun is not None:
            waits.append(asyncio.create_task(begun.wait()))
        left = None if until is None else max(0.0, until - asyncio.get_running_loop().time())
        try:
            done, _ = await asyncio.wait(
                {work, *waits}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()
        if not self._stop.is_set() and begun is not None and begun.is_set():
            return False
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
