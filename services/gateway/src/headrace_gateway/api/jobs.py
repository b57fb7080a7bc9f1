"""Jobs: read, list, cancel, requeue and count them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from headrace_core.domain.access import Right
from headrace_core.domain.errors import QuotaExceeded, Violation
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import Job, JobEvent
from headrace_core.domain.job_log import LogPosition, StoredLine
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.stats import Stats
from headrace_core.store.event_log import list_events, list_output
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.logs import list_logs
from headrace_core.store.jobs.read import get_job, list_jobs, read_stats
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.jobs.submit_metered import admit_requeue
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.quotas import TenantQuotas
from headrace_gateway.api.filter import parse_filter
from headrace_gateway.api.pages import Page, fill_page, split_page
from headrace_gateway.api.validation import (
    Violations,
    check_reason,
    limit_after_position,
    limit_after_seq,
    page_limit,
)
from headrace_gateway.api.visibility import (
    check_visible,
    check_visible_id,
    visible_events,
    visible_job,
)
from headrace_gateway.calls.call import Call
from headrace_gateway.tokens import decode_page_token, encode_page_token

_log = structlog.get_logger()

# The time limit of a statement that counts all jobs of a tenant, in seconds.
COUNT_TIMEOUT: Final = 30.0
# Maximum numbers of items that one statement reads: jobs in the FULL view, and events.
_MAX_FULL_JOBS_READ: Final = 8
_MAX_EVENTS_READ: Final = 100


class Jobs:
    """The use cases of stored jobs.

    Methods report `violations`, which the transport found in the rest of the request, together
    with their own.

    Args:
        database: stores the jobs.
        installation: signs page tokens.
        bus: wakes other processes after each change.
        quotas: the quotas of the tenants.
    """

    def __init__(
        self,
        *,
        database: Database,
        installation: Installation,
        bus: WakeBus,
        quotas: TenantQuotas,
    ) -> None:
        self._quotas = quotas
        self._database = database
        self._installation = installation
        self._bus = bus

    async def get(self, call: Call, job_id: JobId, *, full: bool = True) -> Job:
        """Return a job.

        Args:
            call: the context of the request.
            job_id: the job to read.
            full: True to read the payload, the result and the stack trace as well.

        Raises:
            JobNotFound: the tenant has no such job.
        """
        async with self._database.statement() as conn:
            job = await get_job(conn, tenant=call.tenant, job_id=job_id, full=full)
        check_visible(call, job)
        return visible_job(call, job)

    async def list(
        self,
        call: Call,
        page: Page[Job],
        *,
        query: str = "",
        size: int = 0,
        token: str = "",
        full: bool = False,
        violations: Sequence[Violation] = (),
    ) -> str:
        """Fill a page with the jobs that match a filter, newest first.

        Args:
            call: the context of the request.
            page: receives the jobs.
            query: a filter in the language of `parse_filter`.
            size: the maximum number of jobs on the page; 0 for the default.
            token: the page token; empty for the first page.
            full: see `get`.
            violations: see the class.

        Returns:
            The token of the next page; empty after the last page.

        Raises:
            InvalidRequest: the filter, the size or the token is invalid.
        """
        found = Violations(violations)
        limit = page_limit(size, found)
        with found.collecting():
            clauses = (*parse_filter(query), *call.principal.scope.query())
        found.check()

        async def read(before: JobId | None, wanted: int) -> tuple[Sequence[Job], bool]:
            found_jobs = await list_jobs(
                conn, tenant=call.tenant, query=clauses, limit=wanted + 1, before=before, full=full
            )
            jobs, complete = split_page(found_jobs, wanted)
            return [visible_job(call, job) for job in jobs], complete

        before = decode_page_token(self._installation, call.tenant, query, token)
        async with self._database.transaction() as conn:
            last = await fill_page(
                page,
                read,
                key=_id_of,
                after=before,
                size=limit,
                step=_MAX_FULL_JOBS_READ if full else None,
            )
        if last is None:
            return ""
        return encode_page_token(self._installation, call.tenant, query, last)

    async def list_events(
        self,
        call: Call,
        page: Page[JobEvent],
        *,
        job_id: JobId,
        after_seq: int = 0,
        size: int = 0,
        only_output: bool = False,
        violations: Sequence[Violation] = (),
    ) -> int:
        """Fill a page with the events of a job, in order.

        Args:
            call: the context of the request.
            page: receives the events.
            job_id: the job to read.
            after_seq: the number of the last event that the caller has seen.
            size: the maximum number of events on the page; 0 for the default.
            only_output: True to omit events without output.
            violations: see the class.

        Returns:
            The number of the last event on the page; 0 if no event follows.

        Raises:
            InvalidRequest: a number is out of range.
            JobNotFound: the tenant has no such job.
        """
        found = Violations(violations)
        after_seq = limit_after_seq(after_seq, found)
        limit = page_limit(size, found)
        found.check()
        select = list_output if only_output else list_events
        # The table of permissions requires only `payload:read` for output.
        call.require(Right.JOBS_READ)

        async def read(after: int, wanted: int) -> tuple[Sequence[JobEvent], bool]:
            # One extra event shows whether more events follow.
            log = await select(
                conn, tenant=call.tenant, job_id=job_id, after_seq=after, limit=wanted + 1
            )
            return visible_events(call, log.events[:wanted]), log.complete

        async with self._database.statement() as conn:
            await check_visible_id(conn, call, job_id)
            last = await fill_page(
                page, read, key=_seq_of, after=after_seq, size=limit, step=_MAX_EVENTS_READ
            )
        return last or 0

    async def list_logs(
        self,
        call: Call,
        page: Page[StoredLine],
        *,
        job_id: JobId,
        after: int = 0,
        size: int = 0,
        violations: Sequence[Violation] = (),
    ) -> int:
        """Fill a page with the log lines of a job, in order.

        Args:
            call: the context of the request.
            page: receives the lines.
            job_id: the job to read.
            after: the position of the last line that the caller has seen.
            size: the maximum number of lines on the page; 0 for the default.
            violations: see the class.

        Returns:
            The position of the last line on the page; 0 if no line follows.

        Raises:
            InvalidRequest: a number is out of range.
            JobNotFound: the tenant has no such job.
        """
        found = Violations(violations)
        position = limit_after_position(after, found)
        limit = page_limit(size, found)
        found.check()
        # The table of permissions requires only `payload:read`.
        call.require(Right.JOBS_READ)

        async def read(after: LogPosition, wanted: int) -> tuple[Sequence[StoredLine], bool]:
            return await list_logs(conn, job_id=job_id, after=after, limit=wanted)

        async with self._database.statement() as conn:
            job = await get_job(conn, tenant=call.tenant, job_id=job_id, full=False)
            check_visible(call, job)
            last = await fill_page(page, read, key=_position_of, after=position, size=limit)
        return 0 if last is None else int(last)

    async def cancel(
        self,
        call: Call,
        job_id: JobId,
        *,
        reason: str = "",
        violations: Sequence[Violation] = (),
    ) -> Job:
        """Cancel a waiting job, or ask the worker of a running job to end it.

        Args:
            call: the context of the request.
            job_id: the job to cancel.
            reason: the reason, for the event; empty for none.
            violations: see the class.

        Raises:
            InvalidRequest: the reason is invalid.
            JobNotFound: the tenant has no such job.
            StateConflict: the job has ended in another way.
        """
        found = Violations(violations)
        check_reason(reason, found)
        found.check()
        async with self._database.transaction() as conn:
            await check_visible_id(conn, call, job_id)
            job = await cancel_job(
                conn,
                tenant=call.tenant,
                job_id=job_id,
                principal=call.author,
                reason=reason or None,
            )
        if job.state is JobState.RUNNING:
            self._bus.publish(Topic.CANCELS, Topic.EVENTS)
        else:
            self._bus.publish(Topic.EVENTS)
        _log.info("job_cancel_requested", job_id=str(job_id), state=job.state.name)
        return visible_job(call, job)

    async def requeue(
        self,
        call: Call,
        job_id: JobId,
        *,
        reason: str = "",
        violations: Sequence[Violation] = (),
    ) -> Job:
        """Queue a failed or cancelled job again.

        Args:
            call: the context of the request.
            job_id: the job to requeue.
            reason: the reason, for the event; empty for none.
            violations: see the class.

        Raises:
            InvalidRequest: the reason is invalid.
            JobNotFound: the tenant has no such job.
            StateConflict: the job has neither failed nor been cancelled.
            QuotaExceeded: the tenant has too many waiting jobs.
        """
        found = Violations(violations)
        check_reason(reason, found)
        found.check()
        quotas = self._quotas.counted(call.tenant)
        try:
            async with self._database.transaction() as conn:
                await check_visible_id(conn, call, job_id)
                if quotas:
                    await admit_requeue(conn, tenant=call.tenant, quotas=quotas)
                job = await requeue_job(
                    conn,
                    tenant=call.tenant,
                    job_id=job_id,
                    principal=call.author,
                    reason=reason or None,
                )
        except QuotaExceeded as error:
            self._quotas.reject(call.tenant, error)
            raise
        self._bus.publish(Topic.JOBS, Topic.EVENTS)
        _log.info("job_requeued", job_id=str(job_id))
        return visible_job(call, job)

    async def stats(self, call: Call) -> Stats:
        """Count the jobs of the tenant."""
        async with self._database.snapshot(statement_timeout=COUNT_TIMEOUT) as conn:
            return await read_stats(conn, tenant=call.tenant, query=call.principal.scope.query())


def _id_of(job: Job) -> JobId | None:
    return job.id


def _position_of(stored: StoredLine) -> LogPosition:
    return stored.position


def _seq_of(event: JobEvent) -> int:
    return event.seq
