"""The `requeued` transition: FAILED, CANCELLED → QUEUED or SCHEDULED, with fresh budgets."""

from __future__ import annotations

from headrace_core.domain.errors import StateConflict
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import Job
from headrace_core.domain.lifecycle import EventType, sources
from headrace_core.store.jobs.read import get_job, lock_job
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.rows import RANK, job_columns, to_job
from headrace_core.store.sql.transition import CALLER_COLUMNS, Transition


async def requeue_job(
    conn: Connection,
    *,
    tenant: str,
    job_id: JobId,
    principal: str | None = None,
    reason: str | None = None,
) -> Job:
    """Return a job to its queue, with fresh budgets.

    A job that never started keeps a schedule time in the future, and becomes SCHEDULED. A deadline
    that has passed is removed, because the caller knows that the job is late.

    Args:
        conn: a connection, in a transaction.
        tenant: the tenant of the job.
        job_id: the job.
        principal, reason: recorded in the event.

    Returns:
        The job in the BASIC view.

    Raises:
        JobNotFound: the tenant does not have this job.
        StateConflict: the job is not FAILED or CANCELLED.
    """
    await lock_job(conn, tenant=tenant, job_id=job_id)
    requeue = {"id": job_id, "principal": principal, "reason": reason}
    row = (await conn.execute(_REQUEUE.statement, requeue)).one_or_none()
    if row is not None:
        return to_job(row)
    job = await get_job(conn, tenant=tenant, job_id=job_id, full=False)
    raise StateConflict(
        job_id, action="requeue", state=job.state, allowed=sources(EventType.REQUEUED)
    )


# After the first start, `due_time` is the end of a backoff.
_IS_SCHEDULED = "j.attempt = 0 AND j.due_time > m.now"
_DUE = f"CASE WHEN {_IS_SCHEDULED} THEN j.due_time ELSE m.now END"

_REQUEUE = Transition(
    name="changed",
    events=(EventType.REQUEUED,),
    rows="j.id = :id AND $guard",
    state=f"CASE WHEN {_IS_SCHEDULED} THEN 'scheduled' ELSE 'queued' END",
    changes={
        "retries_used": "0",
        "worker_losses": "0",
        "interruptions": "0",
        "progress": "NULL",
        "error": "NULL",
        "stack_trace": "NULL",
        "end_time": "NULL",
        "cancel_request_time": "NULL",
        "deadline": "CASE WHEN j.deadline > m.now THEN j.deadline END",
        "rank": RANK.format(due=_DUE, priority="j.priority"),
        "due_time": _DUE,
        "queue_time": f"CASE WHEN {_IS_SCHEDULED} THEN NULL ELSE m.now END",
    },
    # `lock_job` has locked the row, so `m.now` is not earlier than the previous change of the row.
    same_time=True,
    returning="j.*",
    event_columns={
        "due_time": "CASE WHEN e.state = 'scheduled' THEN e.due_time END",
        **CALLER_COLUMNS,
    },
    result=f"SELECT {job_columns(full=False)} FROM changed",
)
