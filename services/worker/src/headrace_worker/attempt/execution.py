"""One attempt, from its claim to its end.

Most attempts are short and end by themselves, so one is a single task, and what else may come over
it are callbacks: a stop from outside, a timer, the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any, Final

import structlog

from headrace_core.domain.attempt import AttemptEnd, ClaimedJob
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.job import JobError, JsonText
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.retry import needs_own_process
from headrace_worker.api.context import Attempt, Context
from headrace_worker.api.errors import NotCommitted
from headrace_worker.api.payload import encode
from headrace_worker.api.registry import RegisteredHandler
from headrace_worker.attempt.failure import attach_stack_trace, stack_trace
from headrace_worker.attempt.handler_logs import AttemptLog, log_as
from headrace_worker.attempt.judge import (
    HandlerTimeout,
    ProcessDied,
    broken,
    call,
    expired,
    failed,
    interrupted,
    raised,
    succeeded,
    unreadable,
    worker_lost,
)
from headrace_worker.attempt.ownership import OwnedTask, Owner, own_context, owned_by
from headrace_worker.attempt.reporter import AttemptReporter
from headrace_worker.runners.children import end_forked
from headrace_worker.runners.modes import Modes

_log = structlog.get_logger()

# How long a handler has to end at the end of a drain, in seconds: the process is about to go.
DRAIN_S: Final = 0.5


class StopReason(Enum):
    """Why an attempt is stopped from outside."""

    # Its cancellation was asked for.
    CANCEL = auto()
    # The worker drains.
    DRAIN = auto()
    # The worker's lease is lost: somebody else decides about the job.
    LOST = auto()


class LeaseLost(Exception):
    """The lease under which the job was claimed is over."""


class Execution:
    """One attempt of a job.

    Args:
        job: the claimed job.
        worker_id: under which it was claimed.
        handler: its handler; None when this worker has none.
        holds: whether the lease under an id is held now.
        modes: runs handlers that do not run in the loop.
        reporter: makes what takes its reports, for a handler that can make any.
        max_result_bytes: the largest result.
        max_losses: how many workers the job may lose.
        max_interruptions: how often in a row the job may be interrupted.
        grace: seconds that a handler in the loop has to end by itself once it is cancelled.
        on_end: called once, with how it ended, or None when that is not ours to say.

    Attributes:
        completes: whether the handler set out to finish its job in a transaction of its own; what
            `on_end` is told then holds only if that was not committed.
    """

    def __init__(
        self,
        *,
        job: ClaimedJob,
        worker_id: WorkerId,
        handler: RegisteredHandler | None,
        holds: Callable[[WorkerId], bool],
        modes: Modes,
        reporter: Callable[[Execution], AttemptReporter],
        max_result_bytes: int,
        max_losses: int,
        max_interruptions: int,
        grace: float,
        on_end: Callable[[Execution, AttemptEnd | None], None],
    ) -> None:
        self.job = job
        self.worker_id = worker_id
        self._handler = handler
        if handler is not None and needs_own_process(job.worker_losses, job.interruptions):
            self._handler = replace(handler, mode="process")
        self._holds = holds
        self._modes = modes
        self._make_reporter = reporter
        self._reporter: AttemptReporter | None = None
        self._max_result_bytes = max_result_bytes
        self._max_losses = max_losses
        self._max_interruptions = max_interruptions
        self._grace = grace
        self._on_end = on_end
        self._work: OwnedTask[JsonText] | None = None
        self._closing: asyncio.Task[None] | None = None
        # The log lines of a handler in the loop.
        self._log: AttemptLog | None = None
        # What a handler in the loop was given, if it takes one.
        self._context: Context | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: float | None = None
        self._timeout = timedelta()
        self._reason: StopReason | None = None
        self._owner = Owner(job.key)
        # The handler finishes its job itself: how that ended, the database knows.
        self.completes = False
        # Its time was up: its own, or its job's.
        self._timed_out = self._at_deadline = False
        # It was told to end before it had: whatever it says now comes too late.
        self._interrupted = False

    def start(self) -> None:
        """Begins to run the handler; it never raises."""
        if self.job.unreadable:
            self._on_end(self, unreadable(self.job))
            return
        if self._handler is None:
            error = JobError(
                type="NO_HANDLER",
                message=f"the worker has no handler of type {self.job.type!r}",
                retryable=False,
            )
            self._on_end(self, failed(self.job, error))
            return
        self._timeout = self.job.timeout or self._handler.spec.timeout
        loop = asyncio.get_running_loop()
        if self.job.time_left is not None:
            self._overdue = loop.time() + self.job.time_left.total_seconds()
            self._timer = loop.call_at(self._overdue, self._time_up, True)
        self._work = OwnedTask(self._run(self._handler), loop=loop, main_of=self._owner)
        self._work.add_done_callback(self._on_done)

    def stop(self, reason: StopReason) -> None:
        """Ends the attempt soon. The first reason stands, but for the loss of the lease."""
        if self._reason is None or reason is StopReason.LOST:
            self._reason = reason
        self._interrupt()
        if reason is StopReason.DRAIN:
            self._leave_within(min(self._grace, DRAIN_S))

    # Running.

    async def _run(self, handler: RegisteredHandler) -> JsonText:
        if handler.mode == "async":
            self._check_lease()
            self._begin()
            payload = handler.decode(self.job.payload)
            self._log = AttemptLog(
                key=self.job.key,
                type=self.job.type,
                correlation_id=self.job.correlation_id,
                module=handler.function.__module__,
            )
            arguments: tuple[Any, ...] = (payload,)
            if handler.takes_context:
                # Its own writes belong to the worker, so it is made before the context changes.
                self._reporter = self._make_reporter(self)
                self._context = Context(self._attempt(), self._reporter)
                arguments = (payload, self._context)
            # This task has a context of its own, so neither is reset.
            own_context(self._owner)
            log_as(self._log)
            return encode(await call(handler.function, *arguments))
        # The wait for a place counts for the deadline and not for the timeout.
        async with self._modes.place(handler):
            self._check_lease()
            self._begin()
            reporter = self._reporter = self._make_reporter(self)
            return await self._modes.run(
                handler, self.job.payload, self._attempt(), reporter, check=self._check_lease
            )

    def _check_lease(self) -> None:
        """To be called right before the handler: much time may have gone by since the claim.

        Raises:
            LeaseLost: others may run the job by now.
        """
        if not self._holds(self.worker_id):
            self._reason = StopReason.LOST
            raise LeaseLost

    def _begin(self) -> None:
        """Its time begins to run."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._timeout.total_seconds()
        if self._overdue is not None and self._overdue < ends:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(ends, self._time_up, False)

    def _attempt(self) -> Attempt:
        limit = self._timeout
        if self._overdue is not None:
            left = timedelta(seconds=self._overdue - asyncio.get_running_loop().time())
            limit = min(limit, max(left, timedelta()))
        return Attempt(
            job_id=self.job.key.job_id,
            number=self.job.key.attempt,
            type=self.job.type,
            queue=self.job.queue,
            tenant=self.job.tenant,
            labels=self.job.labels,
            deadline=datetime.now(UTC) + limit,
            ends=time.monotonic() + limit.total_seconds(),
            correlation_id=self.job.correlation_id or "",
        )

    # Ending.

    def _time_up(self, at_deadline: bool) -> None:
        if self._work is None or self._work.done() or self._interrupted:
            return
        self._timed_out, self._at_deadline = True, at_deadline
        self._interrupt()

    def _interrupt(self) -> None:
        if self._work is None or self._work.done() or self._interrupted:
            return
        self._interrupted = True
        if self._context is not None:
            self._context.cancel_event.set()
        # A handler that awaits tasks of others does not pass its cancellation on to them.
        with owned_by(self._owner):
            self._work.cancel()
        if self._handler is not None and self._handler.mode == "async":
            # The other modes know by themselves when to leave a handler behind.
            self._leave_within(self._grace)

    def _leave_within(self, seconds: float) -> None:
        if self._work is None or self._work.done():
            return
        self._cancel_timer()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._leave_behind, self._work)

    def _leave_behind(self, work: OwnedTask[JsonText]) -> None:
        if work.done():
            # It ended in this very turn of the loop: `_on_done` is about to be called.
            return
        if self._handler is not None and self._handler.mode != "process":
            # A process is killed.
            self._modes.left_behind(self.job.key, self.job.type)
        work.remove_done_callback(self._on_done)
        # Nobody waits for it any more: what it raises later is not news.
        work.add_done_callback(lambda late: late.cancelled() or late.exception())
        self._end(work)

    def _on_done(self, _: asyncio.Task[JsonText]) -> None:
        self._cancel_timer()
        assert self._work is not None
        self._end(self._work)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, work: OwnedTask[JsonText]) -> None:
        try:
            finish = self._judge(work)
        except BaseException:  # noqa: BLE001 - else the job would stay RUNNING as long as its worker
            job_id, attempt = self.job.key
            _log.exception("execution_failed", job_id=str(job_id), attempt=attempt)
            finish = broken(self.job)
        if self._log is not None:
            self._log.close()
        reporter = self._reporter
        if reporter is not None:
            reporter.end()
            self.completes = reporter.completes
        # An error holds the frames that it came through, and those hold this: without the circle,
        # payload and result go as soon as nobody needs them.
        self._work = self._context = self._reporter = None
        if self._owner.forked:
            end_forked(self._owner.forked)
        if reporter is None or reporter.idle:
            self._on_end(self, finish)
        else:
            self._closing = asyncio.create_task(self._close(reporter, finish))

    async def _close(self, reporter: AttemptReporter, finish: AttemptEnd | None) -> None:
        """Writes what was reported last before the end."""
        try:
            await reporter.close()
        finally:
            self._on_end(self, finish)

    def _judge(self, work: OwnedTask[JsonText]) -> AttemptEnd | None:
        assert self._handler is not None
        # Asked for whether it counts or not: asyncio complains of what nobody has asked for.
        error = None if work.cancelled() or not work.done() else work.exception()
        if self._reason is StopReason.LOST:
            return None
        cancelled = self._interrupted or work.cancelled()
        if cancelled:
            error = None
        if not cancelled and error is None:
            # It finished first, whatever was asked meanwhile.
            if self._reporter is None or not self._reporter.completes:
                return succeeded(self.job, work.result(), max_bytes=self._max_result_bytes)
            error = NotCommitted()
            return raised(self.job, error, self.job.retry.over(self._handler.spec.retry))
        if self._reason is StopReason.CANCEL:
            return self._without_result(EventType.CANCELLED)
        if self._at_deadline:
            return expired(self.job)
        drained = self._reason is StopReason.DRAIN or work.cancelled_by_others
        if drained and cancelled and not self._timed_out:
            return interrupted(self.job, max_interruptions=self._max_interruptions)
        if self._timed_out:
            limit = self._timeout.total_seconds()
            error = HandlerTimeout(f"the attempt did not end within {limit:g} s")
            attach_stack_trace(error, self._place_of_cancel(work))
        elif error is None:
            error = asyncio.CancelledError("the handler was cancelled from within")
            attach_stack_trace(error, self._place_of_cancel(work))
        elif isinstance(error, ProcessDied):
            return worker_lost(self.job, error, max_losses=self._max_losses)
        return raised(self.job, error, self.job.retry.over(self._handler.spec.retry))

    def _without_result(self, event: EventType) -> AttemptEnd:
        return AttemptEnd(key=self.job.key, event=event)

    def _place_of_cancel(self, work: OwnedTask[JsonText]) -> str:
        """Where the handler was when it was cancelled; empty while it still runs."""
        if self._handler is None or self._handler.mode == "process":
            return ""
        try:
            error = work.exception()
        except asyncio.InvalidStateError:
            return ""
        except asyncio.CancelledError as cancelled:
            return stack_trace(cancelled)
        return "" if error is None else stack_trace(error)
