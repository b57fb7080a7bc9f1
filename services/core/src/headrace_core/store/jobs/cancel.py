"""The `cancelled` and `cancel requested` transitions, by a client."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import StateConflict
from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.job import Job
from headrace_core.domain.lifecycle import EventType, JobState, sources
from headrace_core.store.jobs.read import get_job, lock_job
from headrace_core.store.leadership import CURRENT_TERM, check_term
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.rows import job_columns, to_job
from headrace_core.store.sql.tables import in_list
from headrace_core.store.sql.transition import CALLER_COLUMNS, Lock, Selection, Transition

_WAITING = tuple(s for s in sources(EventType.CANCELLED) if s is not JobState.RUNNING)


async def cancel_job(
    conn: Connection,
    *,
    tenant: str,
    job_id: JobId,
    principal: str | None = None,
    reason: str | None = None,
) -> Job:
    """Cancel a waiting job, or record the request if the job is running.

    Args:
        conn: a connection, in a transaction.
        tenant: the tenant of the job.
        job_id: the job.
        principal, reason: recorded in the event.

    Returns:
        The job in the BASIC view. It is unchanged if it was already cancelled, or if its
        cancellation was already requested.

    Raises:
        JobNotFound: the tenant does not have this job.
        StateConflict: the job has succeeded or failed.
    """
    await lock_job(conn, tenant=tenant, job_id=job_id)
    cancel = {"id": job_id, "principal": principal, "reason": reason}
    row = (await conn.execute(_CANCEL.statement, cancel)).one_or_none()
    if row is not None:
        return to_job(row)
    job = await get_job(conn, tenant=tenant, job_id=job_id, full=False)
    if job.state is JobState.CANCELLED or job.cancel_request_time is not None:
        return job
    raise StateConflict(
        job_id, action="cancel", state=job.state, allowed=sources(EventType.CANCELLED)
    )


async def request_cancellations(conn: Connection, *, term: int, tenant: str, limit: int) -> int:
    """Request the cancellation of running jobs of a tenant, and return their number.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    parameters = {"term": term, "tenant": tenant, "limit": limit}
    requested: int = check_term(
        term, await conn.execute(_REQUEST_CANCELLATIONS.statement, parameters)
    )[0][0]
    return requested


async def cancel_requests(conn: Connection, *, worker_id: WorkerId) -> Sequence[AttemptKey]:
    """Return the running attempts of a worker for which a cancellation was requested."""
    rows = await conn.execute(_CANCEL_REQUESTS, {"worker_id": worker_id})
    return [AttemptKey(row.id, row.attempt) for row in rows]


_CANCEL = Transition(
    name="changed",
    events=(EventType.CANCELLED, EventType.CANCEL_REQUESTED),
    sources=sources(EventType.CANCELLED),
    rows="j.id = :id AND $guard AND j.cancel_request_time IS NULL",
    state=f"CASE WHEN j.state IN ({in_list(_WAITING)}) THEN 'cancelled' ELSE j.state END",
    changes={
        "end_time": f"CASE WHEN j.state IN ({in_list(_WAITING)}) THEN clock_timestamp() END",
        "cancel_request_time": "clock_timestamp()",
    },
    returning="j.*",
    event_type="CASE WHEN e.state = 'cancelled' THEN 'cancelled' ELSE 'cancel_requested' END",
    event_columns=CALLER_COLUMNS,
    result=f"SELECT {job_columns(full=False)} FROM changed",
)

_REQUEST_CANCELLATIONS = Transition(
    name="changed",
    events=(EventType.CANCEL_REQUESTED,),
    before=[CURRENT_TERM],
    rows=Selection(
        "running",
        """
            SELECT j.id FROM workers w JOIN jobs j ON j.worker_id = w.id
            WHERE EXISTS (SELECT FROM current_term)
                AND $guard AND j.tenant = :tenant AND j.cancel_request_time IS NULL
            ORDER BY j.id LIMIT :limit
            $lock
        """,
        Lock.WAIT,
    ),
    changes={"cancel_request_time": "clock_timestamp()"},
    then=["counted AS (SELECT count(*) AS jobs FROM changed)"],
    result="SELECT (SELECT jobs FROM counted) FROM current_term",
)

_CANCEL_REQUESTS = text("""
    SELECT id, attempt FROM jobs
    WHERE worker_id = :worker_id AND state = 'running' AND cancel_request_time IS NOT NULL
""")
