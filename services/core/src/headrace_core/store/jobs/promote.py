"""The `due` transition: SCHEDULED, RETRYING → QUEUED."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from headrace_core.domain.lifecycle import EventType
from headrace_core.store.leadership import CURRENT_TERM, check_term
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.rows import RANK
from headrace_core.store.sql.times import clamped_time_sql
from headrace_core.store.sql.transition import Lock, Selection, Transition, source_guard


async def promote_due(conn: Connection, *, term: int, limit: int) -> int:
    """Queue up to `limit` due jobs, the earliest due time first, and return their number.

    Raises:
        StaleTerm: the scheduler's term is over.
    """
    queued: int = check_term(
        term, await conn.execute(_PROMOTE.statement, {"term": term, "limit": limit})
    )[0][0]
    return queued


async def next_due(conn: Connection) -> timedelta | None:
    """Return the time until the next job is due; negative if late, None if there is none."""
    wait: timedelta | None = await conn.scalar(_NEXT_DUE)
    return wait


_PROMOTE = Transition(
    name="queued",
    events=(EventType.DUE,),
    before=[CURRENT_TERM],
    rows=Selection(
        "due",
        """
            SELECT j.id FROM jobs j
            -- The statement's time ends the scan of the index; a volatile time would not.
            WHERE EXISTS (SELECT FROM current_term)
                AND $guard AND j.due_time <= statement_timestamp()
            ORDER BY j.due_time, j.id LIMIT :limit
            $lock
        """,
        Lock.SKIP,
    ),
    changes={
        "queue_time": "clock_timestamp()",
        "rank": RANK.format(due="j.due_time", priority="j.priority"),
    },
    then=["counted AS (SELECT count(*) AS jobs FROM queued)"],
    result="SELECT (SELECT jobs FROM counted) FROM current_term",
)

_NEXT_DUE = text(f"""
    SELECT CASE WHEN first.due_time IS NOT NULL
        THEN {clamped_time_sql("first.due_time")} - clock_timestamp() END
    FROM (SELECT min(due_time) AS due_time FROM jobs j WHERE {source_guard(EventType.DUE)}) first
""")
