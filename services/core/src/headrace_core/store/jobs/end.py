"""The ends of attempts that a worker reports, such as succeeded and failed.

Each end leaves RUNNING and has the same guard on the attempt and the worker, so one statement can
write a mixed batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import text

from headrace_core.domain.attempt import AttemptEnd, AttemptKey
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.job_log import LogChunk
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.store.jobs.logs import LOGGED, log_parameters
from headrace_core.store.sql.connection import Connection, Row
from headrace_core.store.sql.documents import column, from_error
from headrace_core.store.sql.tables import in_list
from headrace_core.store.sql.transition import (
    EVENT_SOURCE,
    TERMINAL_LIST,
    Lock,
    Selection,
    Transition,
)


async def end_attempts(
    conn: Connection,
    *,
    worker_id: WorkerId,
    ends: Sequence[AttemptEnd],
    with_stack_traces: bool = True,
    logs: Sequence[LogChunk] = (),
) -> dict[AttemptKey, EventType]:
    """End attempts of one worker.

    If a cancellation was requested and the job would run again, the job is cancelled instead.

    Args:
        conn: a connection, with or without a transaction.
        worker_id: the worker that claimed the attempts.
        ends: at most one for each job.
        with_stack_traces: whether to store the stack traces of errors.
        logs: the last lines that the handlers of these attempts logged. They are stored in the
            same transaction, so a reader that sees the end of a job also sees its whole log.

    Returns:
        The event written for each attempt. A missing attempt was rejected, because it no longer
        belongs to this worker: its job was cancelled, expired or recovered.
    """
    rows = await conn.execute(
        (_END_WITH_LOGS if logs else _END).statement,
        {
            **(log_parameters(logs) if logs else {}),
            "worker_id": worker_id,
            "ids": [end.key.job_id for end in ends],
            "attempts": [end.key.attempt for end in ends],
            "events": column(ends, "event"),
            "states": column(ends, "state"),
            "results": column(ends, "result"),
            "errors": [from_error(end.error) for end in ends],
            "stack_traces": [
                end.error.stack_trace if end.error and with_stack_traces else None for end in ends
            ],
            "backoffs": column(ends, "backoff"),
        },
    )
    return _to_events(rows)


async def written_ends(
    conn: Connection, *, ends: Sequence[AttemptEnd]
) -> dict[AttemptKey, EventType]:
    """Return which of `ends` were written, for a worker that did not receive the response.

    The worker must hold its lease. Otherwise the scheduler may have written the same event.

    Returns:
        The event of each attempt whose end was written.
    """
    rows = await conn.execute(
        _WRITTEN_ENDS,
        {
            "ids": [end.key.job_id for end in ends],
            "attempts": [end.key.attempt for end in ends],
            "events": column(ends, "event"),
        },
    )
    return _to_events(rows)


def _to_events(rows: Iterable[Row]) -> dict[AttemptKey, EventType]:
    return {AttemptKey(row["id"], row["attempt"]): _EVENTS[row["event"]] for row in rows}


_EVENTS = {str(event): event for event in EventType}
_ENDS = (
    EventType.SUCCEEDED,
    EventType.FAILED,
    EventType.RETRY_SCHEDULED,
    EventType.INTERRUPTED,
    EventType.WORKER_LOST,
    EventType.CANCELLED,
    EventType.EXPIRED,
)
# After these events a job runs again, unless its crash budget is spent.
_EVENTS_BEFORE_NEXT_RUN = in_list(
    [EventType.RETRY_SCHEDULED, EventType.INTERRUPTED, EventType.WORKER_LOST]
)

_INPUT = """input AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS integer[]), CAST(:events AS text[]),
        CAST(:states AS text[]), CAST(:results AS text[]), CAST(:errors AS text[]),
        CAST(:stack_traces AS text[]), CAST(:backoffs AS interval[])
    ) AS t (id, attempt, event, state, result, error, stack_trace, backoff)
    ORDER BY id
)"""


def _declare(*before: str) -> Transition:
    # Each job is found and locked by its key, as in `claim`.
    return Transition(
        name="ended",
        events=_ENDS,
        before=[*before, _INPUT],
        rows=Selection(
            "own",
            f"""
                SELECT l.id, i.result, i.error, i.stack_trace, i.backoff,
                    CASE WHEN l.dropped THEN '{EventType.CANCELLED}' ELSE i.event END AS event,
                    CASE WHEN l.dropped THEN '{JobState.CANCELLED}' ELSE i.state END AS state
                FROM input i CROSS JOIN LATERAL (
                    SELECT j.id, j.cancel_request_time IS NOT NULL
                        AND i.event IN ({_EVENTS_BEFORE_NEXT_RUN}) AS dropped
                    FROM jobs j
                    WHERE j.id = i.id AND j.attempt = i.attempt AND j.worker_id = :worker_id
                        AND $guard
                    $lock
                ) l
            """,
            Lock.WAIT,
        ),
        keyed=True,
        state="own.state",
        changes={
            "result": "own.result::json",
            "error": """CASE WHEN own.state = 'succeeded' THEN NULL
                ELSE coalesce(own.error::json, j.error) END""",
            "stack_trace": """CASE WHEN own.error IS NOT NULL THEN nullif(own.stack_trace, '')
                WHEN own.state <> 'succeeded' THEN j.stack_trace END""",
            "retries_used": "j.retries_used + (own.event = 'retry_scheduled')::integer",
            "worker_losses": "j.worker_losses + (own.event = 'worker_lost')::integer",
            "interruptions": """CASE own.event WHEN 'interrupted' THEN j.interruptions + 1
                WHEN 'worker_lost' THEN j.interruptions ELSE 0 END""",
            "due_time": """CASE WHEN own.event = 'retry_scheduled'
                THEN clock_timestamp() + own.backoff ELSE j.due_time END""",
            "queue_time": """CASE WHEN own.state = 'queued'
                THEN clock_timestamp() ELSE j.queue_time END""",
            "end_time": f"CASE WHEN own.state IN ({TERMINAL_LIST}) THEN clock_timestamp() END",
        },
        returning=f"{EVENT_SOURCE}, j.due_time, own.event, own.error",
        event_type="e.event",
        event_columns={
            "error": """CASE WHEN e.event IN ('retry_scheduled', 'failed', 'worker_lost', 'expired')
                THEN e.error::json END""",
            "due_time": "CASE WHEN e.event = 'retry_scheduled' THEN e.due_time END",
        },
        result="SELECT id, attempt, event FROM ended",
    )


_END = _declare()
_END_WITH_LOGS = _declare(f"logged AS ({LOGGED})")

_WRITTEN_ENDS = text(f"""
    SELECT i.id, i.attempt, e.type AS event
    FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS integer[]), CAST(:events AS text[])
    ) AS i (id, attempt, event)
    CROSS JOIN LATERAL (
        SELECT e.type FROM job_events e
        WHERE e.job_id = i.id AND e.attempt = i.attempt AND (
            e.type = i.event
            OR e.type = '{EventType.CANCELLED}' AND i.event IN ({_EVENTS_BEFORE_NEXT_RUN})
        )
        ORDER BY e.seq DESC LIMIT 1
    ) e
""")
