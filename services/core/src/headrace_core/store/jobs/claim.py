"""The `started` transition: QUEUED → RUNNING, with a new attempt number."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey, ClaimedJob
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.rows import CLAIMED_COLUMNS, to_claimed_job
from headrace_core.store.sql.times import readable_interval_condition, readable_times_condition
from headrace_core.store.sql.transition import Lock, Selection, Transition
from headrace_core.store.workers import LIVE_WORKER, serves_tenant, tenant_may_start


async def claim_jobs(
    conn: Connection,
    *,
    worker_id: WorkerId,
    deliveries: Sequence[AttemptKey],
    most: int | None = None,
) -> list[ClaimedJob]:
    """Claim delivered attempts for a worker.

    Args:
        conn: a connection, with or without a transaction.
        worker_id: the worker.
        deliveries: the attempts to claim.
        most: the maximum number of claims, starting with the first delivery; None for all.

    Returns:
        The claimed jobs in the order of `deliveries`. An attempt is missing if its job is deleted,
        claimed, cancelled, expired or locked by another transaction. A repeated attempt is claimed
        once. All attempts are missing if the worker's lease has lapsed.
    """
    rows = await conn.execute(
        _CLAIM.statement,
        {
            "worker_id": worker_id,
            "ids": [delivery.job_id for delivery in deliveries],
            "attempts": [delivery.attempt for delivery in deliveries],
            "most": most,
        },
    )
    claimed = {job.key: job for job in map(to_claimed_job, rows)}
    return [claimed.pop(delivery) for delivery in deliveries if delivery in claimed]


async def held_attempts(conn: Connection, *, worker_id: WorkerId) -> Sequence[AttemptKey]:
    """Return the attempts that a worker runs according to the database."""
    rows = await conn.execute(_HELD_ATTEMPTS, {"worker_id": worker_id})
    return [AttemptKey(row.id, row.attempt) for row in rows]


_HELD_ATTEMPTS = text(
    "SELECT id, attempt FROM jobs WHERE worker_id = :worker_id AND state = 'running'"
)

# `LATERAL … FOR UPDATE` finds and locks each job by its key, in the order given, even if the
# planner has no statistics. The scan ends when the LIMIT is reached.
_CLAIM = Transition(
    name="claimed",
    events=(EventType.STARTED,),
    before=[
        """input AS MATERIALIZED (
            -- An ended attempt and its job's next attempt may both have a delivery.
            SELECT id, attempt
            FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS integer[])) WITH ORDINALITY
                AS t (id, attempt, place)
            GROUP BY id, attempt
            ORDER BY min(place)
        )""",
    ],
    # SKIP LOCKED: the transaction that locks a row claims or cancels the job.
    rows=Selection(
        "free",
        f"""
            SELECT f.id, f.unreadable
            FROM (
                SELECT w.tenant, w.tenants FROM workers w
                WHERE w.id = :worker_id AND {LIVE_WORKER}
            ) w
            CROSS JOIN input i CROSS JOIN LATERAL (
                SELECT j.id,
                    -- The columns before the update, which corrects them (migration 0007).
                    concat_ws(' ',
                        CASE WHEN NOT ({readable_times_condition(["j.deadline"])})
                            THEN 'deadline' END,
                        CASE WHEN NOT ({readable_interval_condition("j.timeout")})
                            THEN 'timeout' END
                    ) AS unreadable
                FROM jobs j
                WHERE j.id = i.id AND j.attempt = i.attempt - 1 AND $guard
                    AND {serves_tenant("j.tenant")} AND {tenant_may_start("j")}
                    AND (j.deadline IS NULL OR j.deadline > clock_timestamp())
                $lock
            ) f
            LIMIT CAST(:most AS bigint)
        """,
        Lock.SKIP,
    ),
    keyed=True,
    changes={
        "attempt": "j.attempt + 1",
        "worker_id": ":worker_id",
        "start_time": "m.now",
        "progress": "NULL",
    },
    # The statement does not wait for locks, so `m.now` is not earlier than the claim.
    same_time=True,
    returning="j.*, free.unreadable",
    event_columns={"worker_id": "e.worker_id"},
    result=f"SELECT {CLAIMED_COLUMNS} FROM claimed",
)
