"""Streams of events: of one job, of a job that is submitted, and of all jobs of a filter."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from headrace_core.domain.errors import Violation
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.domain.query import JobFilter
from headrace_gateway.api.validation import Violations, check_idle_interval, seen_seq
from headrace_gateway.calls.call import Call
from headrace_gateway.streams import Watch, WatchPage


class JobStreams:
    """The use cases that follow jobs.

    Each method reports `violations`, which the transport found in the request, together with its
    own. A caller that stops early must close the stream.

    Args:
        watch: the streams of this gateway.
    """

    def __init__(self, *, watch: Watch) -> None:
        self._watch = watch

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
            call: the call.
            job_id: the job.
            after_seq: the number of the last event that the caller has seen.
            idle: the longest time without a list, in seconds; None for the default.
            violations: see the class.

        Raises:
            InvalidRequest: the number or the interval is out of its range.
        """
        found = Violations(violations)
        after_seq = seen_seq(after_seq, found)
        check_idle_interval(idle, found)
        found.check()
        return self._watch.watch_job(call.tenant, job_id, after_seq, idle=idle)

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
            call: the call.
            job_filter: the jobs.
            cursor: the cursor of the last page that the caller has seen; empty for now.
            idle: the longest time without a page, in seconds; None for the default.
            violations: see the class.

        Raises:
            InvalidRequest: the cursor or the interval is invalid.
        """
        found = Violations(violations)
        check_idle_interval(idle, found)
        found.check()
        return self._watch.watch_jobs(call.tenant, job_filter, cursor, idle=idle)
