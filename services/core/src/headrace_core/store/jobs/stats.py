"""How many jobs there are, and how long the oldest of them wait."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from headrace_core.domain.lifecycle import JobState
from headrace_core.store.sql.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts at `time`.

    `counts` has (queue, type, state, jobs); `ages` tells per queue how long its oldest QUEUED job
    has waited.
    """

    time: datetime
    counts: list[tuple[str, str, JobState, int]]
    ages: dict[str, timedelta]


async def read_stats(conn: Connection, *, tenant: str) -> Stats:
    """Counts a tenant's jobs."""
    rows = await conn.execute(_STATS, {"tenant": tenant})
    ages: dict[str, timedelta] = {}
    for row in rows:
        if row.age is not None:
            ages[row.queue] = max(row.age, ages.get(row.queue, row.age))
    return Stats(
        time=rows[0].time,
        counts=[
            (row.queue, row.type, JobState(row.state), row.jobs)
            for row in rows
            if row.queue is not None
        ],
        ages=ages,
    )


_STATS = text("""
    SELECT m.time, c.* FROM (SELECT clock_timestamp() AS time) m
    LEFT JOIN (
        SELECT queue, type, state, count(*) AS jobs,
            clock_timestamp() - min(queue_time)
                FILTER (WHERE state = 'queued' AND isfinite(queue_time)) AS age
        FROM jobs WHERE tenant = :tenant GROUP BY queue, type, state
    ) c ON true
    ORDER BY c.queue, c.type, c.state
""")
