"""Recovery: the transitions worker lost and expired, written by the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.retry import INTERRUPTIONS_BEFORE_OWN_PROCESS, LOSSES_BEFORE_OWN_PROCESS
from headrace_core.store.leadership import CURRENT_TERM, check_term
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.transition import (
    EVENT_SOURCE,
    TERMINAL_LIST,
    Lock,
    Selection,
    Transition,
    source_guard,
)


async def recover_lost(
    conn: Connection, *, term: int, limit: int, max_losses: int
) -> Sequence[tuple[JobId, str]]:
    """Recover RUNNING jobs whose worker's lease has lapsed or whose worker is missing.

    The age of a job does not matter: a live worker keeps its jobs. A job that ran in its own
    process is not charged with a loss, because it did not crash the worker.

    Args:
        conn: a connection, with or without a transaction.
        term: the term of the scheduler.
        limit: the maximum number of jobs.
        max_losses: the maximum number of worker losses of a job; the next loss fails the job.

    Returns:
        Each job and its new state.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    values = {"term": term, "limit": limit, "max_losses": max_losses}
    rows = check_term(term, await conn.execute(_RECOVER.statement, values))
    return [(row.id, row.state) for row in rows if row.id is not None]


async def expire_overdue(
    conn: Connection, *, term: int, limit: int, running_grace: timedelta
) -> Sequence[JobId]:
    """Fail jobs whose deadline has passed.

    Args:
        conn: a connection, with or without a transaction.
        term: the term of the scheduler.
        limit: the maximum number of jobs.
        running_grace: the extra time in which the worker of a RUNNING job should end it.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    values = {"term": term, "limit": limit, "grace": running_grace}
    rows = check_term(term, await conn.execute(_EXPIRE.statement, values))
    return [row.id for row in rows if row.id is not None]


# Only jobs that shared a process are charged with the loss.
_IS_CHARGED = (
    f"(j.worker_losses < {LOSSES_BEFORE_OWN_PROCESS}"
    f" AND j.interruptions < {INTERRUPTIONS_BEFORE_OWN_PROCESS})"
)

# The statement reads one entry per worker in the index of running jobs, so the cost depends on the
# number of workers. A job that another worker has claimed in the meantime is not selected.
_RECOVER = Transition(
    name="released",
    events=(EventType.WORKER_LOST, EventType.CANCELLED),
    before=[
        CURRENT_TERM,
        f"""holder AS (
            (SELECT worker_id FROM jobs j
                WHERE EXISTS (SELECT FROM current_term) AND {source_guard(EventType.WORKER_LOST)}
                ORDER BY worker_id LIMIT 1)
            UNION ALL
            SELECT n.* FROM holder h CROSS JOIN LATERAL (
                SELECT j.worker_id FROM jobs j
                WHERE {source_guard(EventType.WORKER_LOST)} AND j.worker_id > h.worker_id
                ORDER BY j.worker_id LIMIT 1
            ) n
        )""",
        """gone AS MATERIALIZED (
            -- The snapshot of a delayed statement lacks leases that were renewed meanwhile. So
            -- leases are compared with the time at which the statement began.
            SELECT h.worker_id FROM holder h
            WHERE NOT EXISTS (SELECT 1 FROM workers w
                WHERE w.id = h.worker_id AND w.lease_expire_time > statement_timestamp())
        )""",
    ],
    recursive=True,
    rows=Selection(
        "lost",
        f"""
            SELECT l.* FROM gone g CROSS JOIN LATERAL (
                SELECT j.id,
                    CASE WHEN j.cancel_request_time IS NOT NULL THEN 'cancelled'
                        WHEN {_IS_CHARGED} AND j.worker_losses >= :max_losses THEN 'failed'
                        ELSE 'queued' END AS state,
                    {_IS_CHARGED} AS charged
                FROM jobs j
                WHERE $guard AND j.worker_id = g.worker_id
                ORDER BY j.id LIMIT :limit
                $lock
            ) l
            LIMIT :limit
        """,
        Lock.SKIP,
    ),
    state="lost.state",
    changes={
        "worker_losses": "j.worker_losses + lost.charged::integer",
        "error": """json_build_object('type', 'WORKER_LOST', 'message',
            'the worker of attempt ' || j.attempt || ' died or hung',
            'retryable', lost.state = 'queued')""",
        "stack_trace": "NULL",
        "queue_time": """CASE WHEN lost.state = 'queued'
            THEN clock_timestamp() ELSE j.queue_time END""",
        "end_time": f"CASE WHEN lost.state IN ({TERMINAL_LIST}) THEN clock_timestamp() END",
    },
    returning=f"{EVENT_SOURCE}, j.error",
    event_type="CASE WHEN e.state = 'cancelled' THEN 'cancelled' ELSE 'worker_lost' END",
    event_columns={"error": "CASE WHEN e.state <> 'cancelled' THEN e.error END"},
    result="SELECT r.id, r.state FROM current_term LEFT JOIN released r ON true",
)

_EXPIRE = Transition(
    name="expired",
    events=(EventType.EXPIRED,),
    before=[CURRENT_TERM],
    rows=Selection(
        "overdue",
        f"""
            SELECT j.id FROM jobs j
            WHERE EXISTS (SELECT FROM current_term)
                AND j.deadline IS NOT NULL AND j.state NOT IN ({TERMINAL_LIST})
                AND $guard
                -- The first bound ends the scan of the index. The second one checks each row.
                AND j.deadline <= statement_timestamp()
                AND j.deadline <= statement_timestamp()
                    - CASE WHEN j.state = 'running' THEN CAST(:grace AS interval)
                        ELSE interval '0' END
            ORDER BY j.deadline, j.id LIMIT :limit
            $lock
        """,
        Lock.SKIP,
    ),
    changes={
        "error": """json_build_object('type', 'DEADLINE_EXCEEDED', 'message',
            'the deadline passed while the job was ' || j.state, 'retryable', false)""",
        "stack_trace": "NULL",
        "end_time": "clock_timestamp()",
    },
    returning=f"{EVENT_SOURCE}, j.error",
    event_columns={"error": "e.error"},
    result="SELECT e.id FROM current_term LEFT JOIN expired e ON true",
)
