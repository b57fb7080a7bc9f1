"""Events: the history of one job, and the log of all.

Every event has a place in the log, (xid, position). A transaction's events become visible at its
commit, all at once, and transactions commit in any order. So there are two ways to read on:

- what has become *visible* since an earlier reading (`read_unseen`), at once and in any order of
  transactions,
- what has *settled*: an event whose xid is below the `horizon` of a snapshot, the oldest
  transaction that was still open then. No event can appear below a horizon any more, so settled
  events can be read in the order of their places, and a place in them is a cursor (`read_range`).

Both have the events of each job in the order of their numbers, within one reading and from each to
the next. For a job's events become visible in that order, since each is written under the lock of
the job's row; and their places are in that order, since the xid of an event is not below that of
the one before it, whichever transaction had its id first (`guards.EVENT_XID`). So `xid` is the id
of the `writer`, the transaction that wrote the event, or a larger one: what has an xid below a
horizon was written below it, and what was seen and has a larger id was seen with its writer.

A place that is given to anybody is always that of an event. A crash of the server lets it give
transaction ids again, those of transactions of which nothing had reached its disk. What has been
committed is on its disk, so every id that is given later lies above every event; but it may lie
below the end of an earlier snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import text

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.store.connection import Connection, Row
from headrace_core.store.jobs import get_job
from headrace_core.store.rows import EVENT_COLUMNS, to_event

# The place of an event in the log: (xid, position).
Place = tuple[int, int]

# Before every event.
BEGINNING: Place = (0, 0)

# Behind every position of a transaction.
_LAST = 2**63 - 1


def place_of(event: JobEvent) -> Place:
    """Where an event stands in the log."""
    return event.xid, event.position


def end_of(xid: int) -> Place:
    """The place behind all events of the transactions up to `xid`."""
    return xid, _LAST


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Which events a reading has seen: those with an xid up to `top` and a writer not in `open`.

    It needs to know nothing of the transactions above `top`, the xid of an event, and so stays true
    when their ids are given again after a crash.
    """

    top: int
    open: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """What the database's clock showed between two moments of `time.monotonic()` here."""

    asked: float
    time: datetime
    answered: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a transaction sees: all that was committed, except by the transactions in `open`.

    `horizon` is the oldest transaction that was still open: all below it had ended; `next` is the
    one behind all that had ended, and so above every event. `start` is the greatest place up to
    which anything was pruned; `clock` what the database's clock showed. It holds for as long as the
    transaction of `connection`.
    """

    connection: Connection = field(repr=False)
    horizon: int
    next: int
    open: frozenset[int]
    start: Place
    clock: ClockReading

    def seen(self, top: int) -> Seen:
        """What has been seen once everything visible, the last event at `top`, has been read."""
        return Seen(top=top, open=frozenset(xid for xid in self.open if xid <= top))


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Some events in the order of their places.

    `end` is the place of the last one, None when there is none; `complete` says that there was
    nothing behind it.
    """

    events: Sequence[JobEvent]
    end: Place | None
    complete: bool


async def list_events(
    conn: Connection, *, tenant: str, job_id: JobId, after_seq: int, limit: int
) -> list[JobEvent]:
    """Up to `limit` events of a job with numbers above `after_seq`, in order.

    Raises:
        JobNotFound: the tenant has no such job.
    """
    rows = await conn.execute(
        _HISTORY, {"tenant": tenant, "id": job_id, "after_seq": after_seq, "limit": limit}
    )
    events = [to_event(row) for row in rows]
    if not events:
        await get_job(conn, tenant=tenant, job_id=job_id, full=False)
    return events


async def hold_snapshot(conn: Connection) -> Snapshot:
    """Lets the rest of a transaction see one state of the database, and returns what that is.

    It must be the first thing that the transaction does.
    """
    await conn.execute(_HOLD)
    asked = time.monotonic()
    row = (await conn.execute(_SNAPSHOT)).one()
    answered = time.monotonic()
    # xmin:xmax:xip,xip,… (PostgreSQL's documentation, "Snapshot Components").
    horizon, unassigned, in_progress = row.snapshot.split(":")
    return Snapshot(
        connection=conn,
        horizon=int(horizon),
        next=int(unassigned),
        open=frozenset(int(xid) for xid in in_progress.split(",") if xid),
        start=(row.xid, row.position),
        clock=ClockReading(asked=asked, time=row.time, answered=answered),
    )


async def read_end(snapshot: Snapshot) -> tuple[Seen, Place]:
    """Where the log ends: what there is to see, and the place of the last settled event.

    That may have been pruned: nobody shall begin before the start.
    """
    row = (await snapshot.connection.execute(_END, {"horizon": str(snapshot.horizon)})).one()
    return snapshot.seen(row.top), max((row.xid, row.position), snapshot.start)


async def read_unseen(snapshot: Snapshot, *, seen: Seen, after: Place, limit: int) -> EventPage:
    """Up to `limit` events that are visible and that `seen` does not have.

    It costs as much as there are of them, however many were seen behind an open transaction.

    Args:
        snapshot: what is visible. Only pages of the same one make a whole.
        seen: from the last page of the reading before.
        after: the end of the page before, BEGINNING for the first one.
        limit: how many events at most.
    """
    # An event that is visible now and was not then: its writer was open then, and either had an id
    # above every event that was seen, and so has the event, or stands in seen.open.
    above = max(after, end_of(seen.top))
    rows = await snapshot.connection.execute(
        _UNSEEN,
        {
            "above_xid": str(above[0]),
            "above_position": above[1],
            "open": [str(xid) for xid in seen.open],
            "top": str(seen.top),
            "after_xid": str(after[0]),
            "after_position": after[1],
            "limit": limit,
        },
    )
    return _page(rows, limit)


async def read_start(conn: Connection, *, tenant: str) -> Place:
    """Where a tenant's part of the log begins.

    Its events up to here may have been pruned, all behind it are there. Read behind a page, in READ
    COMMITTED, it tells whether that page could be whole.
    """
    row = (await conn.execute(_START, {"tenant": tenant})).one_or_none()
    return BEGINNING if row is None else (row.xid, row.position)


async def read_range(conn: Connection, *, after: Place, through: Place, limit: int) -> EventPage:
    """Up to `limit` events behind `after` and up to `through`, which must have settled.

    Args:
        conn: in any transaction: what has settled is the same in every later one.
        after: the place behind which to read.
        through: the last place of the range.
        limit: how many events at most.
    """
    rows = await conn.execute(
        _RANGE,
        {
            "after_xid": str(after[0]),
            "after_position": after[1],
            "through_xid": str(through[0]),
            "through_position": through[1],
            "limit": limit,
        },
    )
    return _page(rows, limit)


def _page(rows: Sequence[Row], limit: int) -> EventPage:
    return EventPage(
        # The job of an old event may be gone already; the event still counts as a row of the page.
        events=[to_event(row) for row in rows if row["job_type"] is not None],
        end=(rows[-1]["xid"], rows[-1]["position"]) if rows else None,
        complete=len(rows) < limit,
    )


# The range is one of (job_id, seq), since the planner expects a handful of events of a job of which
# it knows nothing, and would read and sort all of a long history for each page of it.
_HISTORY = text(f"""
    SELECT {EVENT_COLUMNS} FROM (
        SELECT * FROM job_events
        WHERE (job_id, seq) > (CAST(:id AS uuid), CAST(:after_seq AS integer))
            AND (job_id, seq) <= (CAST(:id AS uuid), {2**31 - 1})
        ORDER BY job_id, seq LIMIT :limit
    ) e
    JOIN jobs j ON j.id = CAST(:id AS uuid) AND j.tenant = :tenant
    ORDER BY e.seq
""")

_HOLD = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

_SNAPSHOT = text("""
    SELECT pg_current_snapshot()::text AS snapshot, clock_timestamp() AS time,
        coalesce(start.xid, 0) AS xid, coalesce(start.position, 0) AS position
    FROM (SELECT 1) always
    LEFT JOIN (
        SELECT start_xid::text::bigint AS xid, start_position AS position FROM event_log
        ORDER BY start_xid DESC, start_position DESC LIMIT 1
    ) start ON true
""")

_START = text("""
    SELECT start_xid::text::bigint AS xid, start_position AS position FROM event_log
    WHERE tenant = :tenant
""")

_END = text("""
    SELECT coalesce(newest.xid, 0) AS top, coalesce(settled.xid, 0) AS xid,
        coalesce(settled.position, 0) AS position
    FROM (SELECT 1) always
    LEFT JOIN (
        SELECT e.xid::text::bigint AS xid FROM job_events e ORDER BY e.xid DESC LIMIT 1
    ) newest ON true
    LEFT JOIN (
        SELECT e.xid::text::bigint AS xid, e.position FROM job_events e
        WHERE e.xid < CAST(CAST(:horizon AS text) AS xid8)
        ORDER BY e.xid DESC, e.position DESC LIMIT 1
    ) settled ON true
""")

# Walks along indexes, none longer than the page: behind what was seen, and for each transaction
# that was open then along its own events, found by their xid or, for the few that have a larger one
# than their writer's id, by their writer. Each is a loop of its own, so that no plan, however
# general, can make one long walk of them.
_UNSEEN = text(f"""
    WITH open AS (
        SELECT xid FROM unnest(CAST(CAST(:open AS text[]) AS xid8[])) AS t (xid)
    )
    SELECT {EVENT_COLUMNS} FROM (
        SELECT * FROM (
            (
                SELECT * FROM job_events
                WHERE (xid, position)
                    > (CAST(CAST(:above_xid AS text) AS xid8), CAST(:above_position AS bigint))
                ORDER BY xid, position LIMIT :limit
            )
            UNION ALL
            SELECT own.* FROM open CROSS JOIN LATERAL (
                SELECT * FROM job_events o
                WHERE o.xid = open.xid AND (o.xid, o.position)
                    > (CAST(CAST(:after_xid AS text) AS xid8), CAST(:after_position AS bigint))
                ORDER BY o.xid, o.position LIMIT :limit
            ) own
            UNION ALL
            SELECT raised.* FROM open CROSS JOIN LATERAL (
                -- OFFSET 0 keeps the planner from a walk along the places, in search of a writer.
                SELECT * FROM (
                    SELECT * FROM job_events w
                    WHERE w.writer = open.xid AND w.writer <> w.xid OFFSET 0
                ) r
                WHERE r.xid <= CAST(CAST(:top AS text) AS xid8)
                    AND NOT r.xid = ANY(CAST(CAST(:open AS text[]) AS xid8[]))
                    AND (r.xid, r.position)
                    > (CAST(CAST(:after_xid AS text) AS xid8), CAST(:after_position AS bigint))
                ORDER BY r.xid, r.position LIMIT :limit
            ) raised
        ) unseen
        ORDER BY xid, position LIMIT :limit
    ) e
    LEFT JOIN jobs j ON j.id = e.job_id
    ORDER BY e.xid, e.position
""")

_RANGE = text(f"""
    SELECT {EVENT_COLUMNS} FROM (
        SELECT * FROM job_events
        WHERE (xid, position)
                > (CAST(CAST(:after_xid AS text) AS xid8), CAST(:after_position AS bigint))
            AND (xid, position)
                <= (CAST(CAST(:through_xid AS text) AS xid8), CAST(:through_position AS bigint))
        ORDER BY xid, position LIMIT :limit
    ) e
    LEFT JOIN jobs j ON j.id = e.job_id
    ORDER BY e.xid, e.position
""")
