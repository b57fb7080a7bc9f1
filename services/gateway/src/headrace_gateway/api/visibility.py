"""The part of a tenant that a principal sees: the jobs of its scope, with or without payloads.

The table `calls/permissions.py` decides which RPCs a principal may call. The use cases call these
functions, because a scope depends on the queue, the type and the labels of each job.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from headrace_core.domain.access import Right
from headrace_core.domain.errors import JobNotFound, PermissionDenied
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import Job, JobError, JobEvent, JobSpec
from headrace_core.domain.query import JobFilter
from headrace_core.domain.submission import BatchJobs, SubmittedBatch
from headrace_core.store.jobs.read import get_job
from headrace_core.store.sql.connection import Connection
from headrace_gateway.calls.call import Call
from headrace_gateway.streams import WatchPage

# The job fields that `payload:read` protects, by their names in the API. An event has the output or
# the error message.
WITHHELD_JOB_FIELDS: Final = ("payload", "result", "error.message", "error.stack_trace")


def check_visible(call: Call, job: Job) -> None:
    """Check that a job is within the scope of the caller.

    Raises:
        JobNotFound: the job is outside of the scope. The caller cannot learn that it exists.
    """
    scope = call.principal.scope
    if not scope.covers_all_jobs and not scope.covers(
        queue=job.queue,
        job_type=job.type,
        labels=job.labels,
        batch_id=job.batch_id,
        job_id=job.id,
    ):
        raise JobNotFound(job.id)


async def check_visible_id(conn: Connection, call: Call, job_id: JobId) -> None:
    """Check that a job is within the scope of the caller, before a change of the job.

    Raises:
        JobNotFound: the job is outside of the scope, or does not exist.
    """
    if not call.principal.scope.covers_all_jobs:
        check_visible(call, await get_job(conn, tenant=call.tenant, job_id=job_id, full=False))


def check_submittable(call: Call, specs: Iterable[JobSpec]) -> None:
    """Check that the caller may submit jobs with these queues, types and labels.

    Raises:
        PermissionDenied: a job would be outside of the caller's scope.
    """
    scope = call.principal.scope
    if scope.covers_all_jobs:
        return
    for spec in specs:
        if scope.queues and spec.queue not in scope.queues:
            raise PermissionDenied(f"queue:{spec.queue}")
        if scope.types and spec.type not in scope.types:
            raise PermissionDenied(f"type:{spec.type}")
        for key, value in scope.labels.items():
            if spec.labels.get(key) != value:
                raise PermissionDenied(f"jobs without the label {key}={value}")
        if scope.batch_id is not None or scope.job_ids:
            raise PermissionDenied("new jobs")


def narrow_filter(call: Call, job_filter: JobFilter) -> JobFilter:
    """Return the filter for the matching jobs within the scope of the caller.

    Raises:
        PermissionDenied: the filter selects only jobs outside of the scope.
    """
    narrowed = call.principal.scope.narrow(job_filter)
    if narrowed is None:
        raise PermissionDenied("the jobs of this filter")
    return narrowed


def visible_job(call: Call, job: Job) -> Job:
    """Return a job without the data that the caller may not read."""
    if Right.PAYLOAD_READ in call.principal.rights:
        return job
    return replace(
        job,
        payload=None,
        result=None,
        error=_withheld(job.error),
        withheld=WITHHELD_JOB_FIELDS,
    )


def visible_batch(call: Call, batch: SubmittedBatch) -> SubmittedBatch:
    """Return the result of a batch submit without the data that the caller may not read."""
    if batch.created:
        return batch
    jobs = batch.jobs.templates.map(lambda job: visible_job(call, job))
    return batch._replace(jobs=BatchJobs(batch.jobs.ids, jobs))


def visible_events(call: Call, events: Sequence[JobEvent]) -> Sequence[JobEvent]:
    """Return events without the data that the caller may not read.

    Streams share events, so a changed event is a copy.
    """
    if Right.PAYLOAD_READ in call.principal.rights:
        return events
    return [
        event
        if event.output is None and event.error is None
        else replace(
            event,
            output=None,
            error=_withheld(event.error),
            withheld=("output",) if event.error is None else ("error.message",),
        )
        for event in events
    ]


def visible_stream(
    call: Call, stream: AsyncGenerator[list[JobEvent], None]
) -> AsyncGenerator[list[JobEvent], None]:
    """Return a stream of events without the data that the caller may not read."""
    if Right.PAYLOAD_READ in call.principal.rights:
        return stream

    async def withhold() -> AsyncGenerator[list[JobEvent], None]:
        async with aclosing(stream):
            async for events in stream:
                yield list(visible_events(call, events))

    return withhold()


def visible_pages(
    call: Call, stream: AsyncGenerator[WatchPage, None]
) -> AsyncGenerator[WatchPage, None]:
    """Return a stream of pages without the data that the caller may not read."""
    if Right.PAYLOAD_READ in call.principal.rights:
        return stream

    async def withhold() -> AsyncGenerator[WatchPage, None]:
        async with aclosing(stream):
            async for page in stream:
                yield replace(page, events=visible_events(call, page.events))

    return withhold()


def _withheld(error: JobError | None) -> JobError | None:
    if error is None:
        return None
    return JobError(type=error.type, message="", retryable=error.retryable)
