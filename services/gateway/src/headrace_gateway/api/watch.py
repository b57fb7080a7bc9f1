"""Event streams of one job, of a new job, and of all jobs that match a filter."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from headrace_core.domain.errors import Violation
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import Job, JobEvent, JobSpec
from headrace_core.domain.query import JobFilter
from headrace_gateway.api.documents import Payload
from headrace_gateway.api.submit import Submit
from headrace_gateway.api.validation import Violations, check_idle_interval, limit_after_seq
from headrace_gateway.calls.call import Call
from headrace_gateway.streams import Watch, WatchPage


class JobStreams:
    """The use cases that follow jobs.

    Methods report `violations`, which the transport found in the request, together with their own.
    A caller that stops early must close the stream.

    Args:
        watch: the streams of this gateway.
        submit: the use cases that create jobs.
    """

    def __init__(self, *, watch: Watch, submit: Submit) -> None:
        self._watch = watch
        self._submit = submit

    def watch_job(
        self,
        call: Call,
        job_id: JobId,
        *,
        after_seq: int = 0,
        idle: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> AsyncGenerator[list[JobEvent], None]:
        """Return the stream of a job; see `Watch.watch_job`.

        Args:
            call: the context of the request.
            job_id: the job to follow.
            after_seq: the number of the last event that the caller has seen.
            idle: the longest time without a list, in seconds; None for the default.
            violations: see the class.

        Raises:
            InvalidRequest: the number or the interval is out of range.
        """
        found = Violations(violations)
        after_seq = limit_after_seq(after_seq, found)
        check_idle_interval(idle, found)
        found.check()
        return self._watch.watch_job(call.tenant, job_id, after_seq, idle=idle)

    async def submit_and_watch(
        self,
        call: Call,
        spec: JobSpec,
        payload: Payload,
        *,
        request_id: str | None = None,
        use_call_deadline: bool = False,
        after_seq: int = 0,
        idle: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> tuple[Job, AsyncGenerator[list[JobEvent], None]]:
        """Store a job, or find it by its request_id.

        See `Submit.submit` and `watch_job` for the arguments and errors.

        Returns:
            The job and its stream.
        """
        found = Violations(violations)
        after_seq = limit_after_seq(after_seq, found)
        check_idle_interval(idle, found)
        submitted = await self._submit.submit(
            call,
            spec,
            payload,
            request_id=request_id,
            use_call_deadline=use_call_deadline,
            violations=found,
        )
        job = submitted.job
        return job, self._watch.watch_job(call.tenant, job.id, after_seq, idle=idle)

    def watch_jobs(
        self,
        call: Call,
        job_filter: JobFilter,
        *,
        cursor: str = "",
        idle: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> AsyncGenerator[WatchPage, None]:
        """Return the stream of all jobs that match a filter; see `Watch.watch_jobs`.

        Args:
            call: the context of the request.
            job_filter: selects the jobs.
            cursor: the cursor of the last page that the caller has seen; empty to start now.
            idle: the longest time without a page, in seconds; None for the default.
            violations: see the class.

        Raises:
            InvalidRequest: the cursor or the interval is invalid.
        """
        found = Violations(violations)
        check_idle_interval(idle, found)
        found.check()
        return self._watch.watch_jobs(call.tenant, job_filter, cursor, idle=idle)
