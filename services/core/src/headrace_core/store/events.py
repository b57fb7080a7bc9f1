"""Events: the history of one job, and the tail of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.store.jobs import get_job
from headrace_core.store.rows import EVENT_COLUMNS, to_event


async def list_events(
    conn: AsyncConnection, *, tenant: str, job_id: JobId, after_seq: int, limit: int
) -> list[JobEvent]:
    """Up to `limit` events of a job with numbers above `after_seq`, in order.

    Raises:
        JobNotFound: the tenant has no such job.
    """
    rows = await conn.execute(
        _HISTORY, {"tenant": tenant, "id": job_id, "after_seq": after_seq, "limit": limit}
    )
    events = [to_event(row) for row in rows.mappings()]
    if not events:
        await get_job(conn, tenant=tenant, job_id=job_id, full=False)
    return events


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Some events in the order of (xid, position), and the state of the log when it was read.

    `horizon` is the oldest transaction id that was still open then: every event below it has
    settled, which means that no event can appear below it any more. `complete` says that there
    was nothing behind the last event.
    """

    events: Sequence[JobEvent]
    horizon: int
    complete: bool


async def read_events(
    conn: AsyncConnection, *, after: tuple[int, int], limit: int, tenant: str | None = None
) -> EventPage:
    """Up to `limit` events behind `after`, which is an (xid, position), visible by now.

    Args:
        after: the place behind which to read.
        limit: how many events at most.
        tenant: only this tenant's; None: all.
    """
    rows = (
        (
            await conn.execute(
                _TAIL,
                {
                    "xid": str(after[0]),
                    "position": after[1],
                    "limit": limit,
                    "tenant": tenant,
                },
            )
        )
        .mappings()
        .all()
    )
    # A page without events is one row that has the horizon alone.
    events = [to_event(row) for row in rows if row["job_id"] is not None]
    return EventPage(events=events, horizon=rows[0]["horizon"], complete=len(events) < limit)


_HISTORY = text(f"""
    SELECT {EVENT_COLUMNS} FROM job_events e JOIN jobs j ON j.id = e.job_id
    WHERE e.job_id = :id AND e.tenant = :tenant AND j.tenant = :tenant AND e.seq > :after_seq
    ORDER BY e.seq LIMIT :limit
""")

_TAIL = text(f"""
    SELECT s.horizon, t.* FROM (
        SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon
    ) s
    LEFT JOIN (
        SELECT {EVENT_COLUMNS} FROM job_events e JOIN jobs j ON j.id = e.job_id
        WHERE (e.xid, e.position) > (CAST(CAST(:xid AS text) AS xid8), CAST(:position AS bigint))
            AND (CAST(:tenant AS text) IS NULL OR e.tenant = :tenant)
        ORDER BY e.xid, e.position LIMIT :limit
    ) t ON true
    ORDER BY t.xid, t.position
""")
