"""One attempt in flight, from its claim to its judged end.

Most attempts are short and end on their own, so an attempt is a single task. Callbacks handle
everything else: a stop, a timer, the end of the task.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from enum import Enum, auto
from typing import Any

import structlog

from headrace_core.domain.attempt import AttemptEnd, AttemptKey, AttemptReport, ClaimedJob
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.job import JsonText
from headrace_core.domain.retry import needs_own_process
from headrace_core.runtime.tracing import Span
from headrace_worker.api.context import Attempt, Context
from headrace_worker.api.errors import NotCommitted
from headrace_worker.api.payload import encode
from headrace_worker.api.registry import RegisteredHandler
from headrace_worker.attempt import judge
from headrace_worker.attempt.environment import Environment
from headrace_worker.attempt.reporter import AttemptReporter
from headrace_worker.attempt.traces import start_span
from headrace_worker.runners.children import end_forked
from headrace_worker.runners.loop import ProcessDied, call
from headrace_worker.runners.ownership import OwnedTask, Owner, own_context, owned_by

_log = structlog.get_logger()


class StopReason(Enum):
    """The reason to stop an attempt before its handler ends."""

    # A cancellation was requested.
    CANCEL = auto()
    # The worker is draining.
    DRAIN = auto()
    # The worker no longer has the attempt, or its lease is lost.
    LOST = auto()


class LeaseLost(Exception):
    """The worker lost the lease under which it claimed the job."""


class Execution:
    """One attempt in flight. It occupies a slot of its worker until `release`.

    Args:
        job: the claimed job.
        worker_id: the id under which the worker claimed the job.
        handler: the handler of the job's type; None if the worker has none.
        environment: the parts that all attempts of the worker share.

    Attributes:
        completes: True if the handler called `complete_in`. The judged end then counts only if the
            handler's transaction was not committed.
        span: the span of the attempt; None before its start, or without traces.
    """

    __slots__ = (
        "__weakref__",
        "_at_deadline",
        "_closing",
        "_context",
        "_deadline",
        "_environment",
        "_handler",
        "_interrupted",
        "_owner",
        "_reason",
        "_reporter",
        "_timed_out",
        "_timeout",
        "_timer",
        "_work",
        "completes",
        "job",
        "span",
        "worker_id",
    )

    def __init__(
        self,
        *,
        job: ClaimedJob,
        worker_id: WorkerId,
        handler: RegisteredHandler | None,
        environment: Environment,
    ) -> None:
        self.job = job
        self.worker_id = worker_id
        self._handler = handler
        if handler is not None and needs_own_process(job.worker_losses, job.interruptions):
            self._handler = replace(handler, mode="process")
        self._environment = environment
        self._reporter: AttemptReporter | None = None
        self._work: OwnedTask[JsonText] | None = None
        self._closing: asyncio.Task[None] | None = None
        # The context of a handler in the event loop, if it takes one.
        self._context: Context | None = None
        self._timer: asyncio.TimerHandle | None = None
        # The deadline of the job, on the event loop's clock.
        self._deadline: float | None = None
        self._timeout = job.timeout or (timedelta() if handler is None else handler.spec.timeout)
        self._reason: StopReason | None = None
        self._owner = Owner(
            job.key,
            type=job.type,
            correlation_id=job.correlation_id,
            module="" if handler is None else handler.function.__module__,
            log=environment.logs,
        )
        self.completes = False
        self.span: Span | None = None
        # The timeout of the attempt, or the deadline of the job, has passed.
        self._timed_out = self._at_deadline = False
        # The handler was cancelled before it ended.
        self._interrupted = False

    @property
    def key(self) -> AttemptKey:
        """The identity of the attempt."""
        return self.job.key

    def start(self) -> None:
        """Start the handler; never raise."""
        if self._environment.tracing is not None:
            self.span = start_span(self._environment.tracing, self.job)
        if self.job.unreadable:
            self._environment.on_end(self, judge.unreadable(self.job))
            return
        if self._handler is None:
            self._environment.on_end(self, judge.without_handler(self.job))
            return
        loop = asyncio.get_running_loop()
        if self.job.time_left is not None:
            self._deadline = loop.time() + self.job.time_left.total_seconds()
            self._timer = loop.call_at(self._deadline, self._on_timeout, True)
        self._work = OwnedTask(self._run(self._handler), loop=loop, main_of=self._owner)
        self._work.add_done_callback(self._on_done)

    def stop(self, reason: StopReason) -> None:
        """End the attempt soon. The first reason is kept, but LOST replaces any other."""
        if self._reason is None or reason is StopReason.LOST:
            self._reason = reason
        self._interrupt()
        if reason is StopReason.DRAIN:
            environment = self._environment
            self._abandon_after(min(environment.grace, environment.timing.drain_grace))

    def release(self) -> None:
        """Release the slot. Repeated calls have no effect."""
        self._environment.release(self)

    # Running.

    async def _run(self, handler: RegisteredHandler) -> JsonText:
        if self.span is not None:
            # The handler's threads inherit the span too. It ends with this task, so it needs no
            # reset.
            self.span.attach()
        if handler.mode == "async":
            self._check_lease()
            self._start_timeout()
            payload = handler.decode(self.job.payload)
            arguments: tuple[Any, ...] = (payload,)
            if handler.takes_context:
                # The reporter's writes belong to the worker, so create it before the owner changes.
                self._reporter = self._make_reporter()
                self._context = Context(self._make_attempt(), self._reporter)
                arguments = (payload, self._context)
            # The context variable ends with this task, so it needs no reset.
            own_context(self._owner)
            return encode(await call(handler.function, *arguments))
        runners = self._environment.runners
        # The wait for a permit counts toward the deadline, but not toward the timeout.
        async with runners.permit(handler):
            self._check_lease()
            self._start_timeout()
            reporter = self._reporter = self._make_reporter()
            return await runners.run(
                handler, self.job.payload, self._make_attempt(), reporter, check=self._check_lease
            )

    def _check_lease(self) -> None:
        """Check the lease right before the handler runs, because the claim may be old.

        Raises:
            LeaseLost: another worker may already be running the job.
        """
        if not self._environment.is_held(self.worker_id):
            self._reason = StopReason.LOST
            raise LeaseLost

    def _start_timeout(self) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._timeout.total_seconds()
        if self._deadline is not None and self._deadline < ends:
            return
        self._cancel_timer()
        self._timer = loop.call_at(ends, self._on_timeout, False)

    def _make_attempt(self) -> Attempt:
        limit = self._timeout
        if self._deadline is not None:
            left = timedelta(seconds=self._deadline - asyncio.get_running_loop().time())
            limit = min(limit, max(left, timedelta()))
        trace_context = self.job.trace_context if self.span is None else self.span.context
        return Attempt.of(self.job, limit, trace_context)

    def _make_reporter(self) -> AttemptReporter:
        return AttemptReporter(
            key=self.job.key,
            write=self._write_report,
            flush_log=self._environment.logs.flush,
            limits=self._environment.limits,
            merge_s=self._environment.timing.merge,
        )

    async def _write_report(self, report: AttemptReport) -> bool:
        written = await self._environment.write_report(self.worker_id, report)
        if not written:
            self.stop(StopReason.LOST)
        return written

    # Ending.

    def _on_timeout(self, at_deadline: bool) -> None:
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
        # If the handler awaits tasks of other owners, its cancellation does not cancel them.
        with owned_by(self._owner):
            self._work.cancel()
        if self._handler is not None and self._handler.mode == "async":
            # The other runners apply the grace period themselves.
            self._abandon_after(self._environment.grace)

    def _abandon_after(self, seconds: float) -> None:
        if self._work is None or self._work.done():
            return
        self._cancel_timer()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._abandon, self._work)

    def _abandon(self, work: OwnedTask[JsonText]) -> None:
        if work.done():
            # The task ended in this iteration of the loop; `_on_done` follows.
            return
        if self._handler is not None and self._handler.mode != "process":
            # A handler in a process is killed instead.
            self._environment.runners.report_left_behind(self.job.key, self.job.type)
        work.remove_done_callback(self._on_done)
        # asyncio warns about an exception that is never retrieved.
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
            end = self._judge(work)
        except BaseException:  # noqa: BLE001 - without an end the job stays RUNNING
            job_id, attempt = self.job.key
            _log.exception("execution_failed", job_id=str(job_id), attempt=attempt)
            end = judge.broken(self.job)
        self._owner.close_log()
        reporter = self._reporter
        if reporter is not None:
            reporter.end()
            self.completes = reporter.completes
        # An exception refers to frames that refer to this object. Breaking the cycle frees the
        # payload and the result at once.
        self._work = self._context = self._reporter = None
        if self._owner.forked:
            end_forked(self._owner.forked)
        if reporter is None or reporter.idle:
            self._environment.on_end(self, end)
        else:
            self._closing = asyncio.create_task(self._close(reporter, end))

    async def _close(self, reporter: AttemptReporter, end: AttemptEnd | None) -> None:
        """Write the last report before the end."""
        try:
            await reporter.close()
        finally:
            self._environment.on_end(self, end)

    def _judge(self, work: OwnedTask[JsonText]) -> AttemptEnd | None:
        assert self._handler is not None
        # asyncio warns about an exception that is never retrieved, so always retrieve it.
        error = None if work.cancelled() or not work.done() else work.exception()
        if self._reason is StopReason.LOST:
            return None
        limits = self._environment.limits
        cancelled = self._interrupted or work.cancelled()
        if cancelled:
            error = None
        elif error is None:
            # The handler returned before a requested stop took effect.
            if self._reporter is None or not self._reporter.completes:
                return judge.succeeded(self.job, work.result(), limits)
            return self._judge_error(NotCommitted())
        if self._reason is StopReason.CANCEL:
            return judge.cancelled(self.job)
        if self._at_deadline:
            return judge.expired(self.job)
        drained = self._reason is StopReason.DRAIN or work.cancelled_by_others
        if drained and cancelled and not self._timed_out:
            return judge.interrupted(self.job, limits)
        if self._timed_out:
            error = judge.timeout_error(self._timeout, self._cancel_stack(work))
        elif error is None:
            error = judge.cancel_error(self._cancel_stack(work))
        elif isinstance(error, ProcessDied):
            return judge.worker_lost(self.job, error, limits)
        return self._judge_error(error)

    def _judge_error(self, error: BaseException) -> AttemptEnd:
        assert self._handler is not None
        return judge.raised(self.job, error, self.job.retry.applied_to(self._handler.spec.retry))

    def _cancel_stack(self, work: OwnedTask[JsonText]) -> str:
        # If the handler runs in a process, the task does not contain the handler's frames.
        is_process = self._handler is not None and self._handler.mode == "process"
        return "" if is_process else judge.cancel_stack(work)
