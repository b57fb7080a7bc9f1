"""Events: the history of one job, and the event log of all jobs.

Every event has a place in the log, (xid, position). The events of a transaction become visible
together at its commit, and transactions commit in any order. Readers can therefore continue in two
ways:

- `read_unseen` returns the events that became *visible* after an earlier reading. It returns them
  without delay, in any transaction order.
- `read_range` returns *settled* events in the order of their places. The `horizon` of a snapshot is
  the oldest transaction that was open in it. An event has settled if its xid is below a horizon. No
  event can appear below a horizon later, so the place of a settled event is a cursor.

Both return the events of each job in the order of their numbers, within a reading and across
readings. The events become visible in that order because each event is written under the lock of
the job's row. Their places have the same order because the xid of an event is never below the xid
of the previous event, even if its transaction got its id first (`sql/transition.py`). So `xid` is
the id of the `writer`, the transaction that wrote the event, or a larger id. If the xid of an event
is below a horizon, its writer is below the horizon too. If an event with a larger xid was seen, its
writer was visible.

A reading is one statement, so it costs one round trip and sees one snapshot. A full page ends at a
place. The next reading returns the visible events after that place, and the events that became
visible in the meantime at any place. `SeenEvents` separates these events from those seen before.

A place that leaves this module is always the place of an event. After a crash, the server can
assign a transaction id again if nothing of the transaction had reached the disk. Committed
transactions are on the disk, so every id that is assigned later is above every event. Such an id
can be below the `next` of an earlier snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import TextClause, text

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.store.jobs.read import get_job
from headrace_core.store.sql.connection import Connection, Row
from headrace_core.store.sql.documents import MAX_PROGRESS_BYTES
from headrace_core.store.sql.rows import EVENT_COLUMNS, NO_EVENT, to_event

# The place of an event in the log: (xid, position).
Place = tuple[int, int]

# The place before every event.
BEGINNING: Place = (0, 0)

# A page ends when its documents reach this size, in bytes. Each stream with a slow reader holds a
# page in memory.
PAGE_BYTES: Final = 1024 * 1024

# A position after every event of a transaction.
_MAX_POSITION = 2**63 - 1


def place_of(event: JobEvent) -> Place:
    """Return the place of an event in the log."""
    return event.xid, event.position


def end_of(xid: int) -> Place:
    """Return the place after all events of the transactions up to `xid`."""
    return xid, _MAX_POSITION


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEvents:
    """All events up to the place `top` whose writer is not in `open`.

    `top` is the place of an event. Transactions above it are not recorded, so reuse of their ids
    after a crash has no effect.

    Attributes:
        top: the greatest place that was seen.
        open: the transactions that may have unseen events up to `top`. The value is the place up to
            which the events of the transaction were seen. It is BEGINNING unless the transaction
            has ended and a full page contained some of its events.
    """

    top: Place
    open: Mapping[int, Place]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """The database's time, between two readings of `time.monotonic()` in this process.

    `time` is in seconds since 1970.
    """

    sent: float
    time: float
    received: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The transactions that a statement has seen: all except the transactions in `open`.

    Attributes:
        horizon: the oldest open transaction; all transactions below it had ended.
        next: the first id after all ended transactions, which is above every event.
        open: the transactions that were open.
        start: the greatest place up to which events were pruned.
        clock: the database's time.
    """

    horizon: int
    next: int
    open: frozenset[int]
    start: Place
    clock: ClockReading

    def open_below(self, place: Place) -> dict[int, Place]:
        """Return the open transactions that can write events before a place."""
        return {xid: BEGINNING for xid in self.open if xid <= place[0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Events in the order of their places.

    Attributes:
        events: the events, without those of pruned jobs.
        end: the place of the last event; None if there are no events.
        complete: whether the page contains all visible events.
    """

    events: Sequence[JobEvent]
    end: Place | None
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A page of unseen events, its snapshot, and the events that are seen after the page."""

    snapshot: Snapshot
    page: EventPage
    seen: SeenEvents


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEnd:
    """The end of the log in a snapshot: all events up to it, and the last settled place."""

    snapshot: Snapshot
    seen: SeenEvents
    settled: Place


async def list_events(
    conn: Connection, *, tenant: str, job_id: JobId, after_seq: int, limit: int
) -> EventPage:
    """Return events of a job with numbers above `after_seq`, in order.

    Args:
        conn: a connection, with or without a transaction.
        tenant: the tenant of the job.
        job_id: the job.
        after_seq: the number of the last event before the page.
        limit: the maximum number of events. The page ends earlier at `PAGE_BYTES`.

    Raises:
        JobNotFound: the tenant does not have this job.
    """
    page = {"tenant": tenant, "id": job_id, "after_seq": after_seq, "limit": limit}
    return await _list_page(conn, _HISTORY, page)


async def list_output(
    conn: Connection, *, tenant: str, job_id: JobId, after_seq: int, limit: int
) -> EventPage:
    """Return a page like `list_events`, with only the events that have output."""
    page = {"tenant": tenant, "id": job_id, "after_seq": after_seq, "limit": limit}
    return await _list_page(conn, _OUTPUT, page)


async def _list_page(conn: Connection, statement: TextClause, page: dict[str, Any]) -> EventPage:
    rows = await conn.execute(statement, page)
    if not rows:
        await get_job(conn, tenant=page["tenant"], job_id=page["id"], full=False)
    return _page(rows, page["limit"])


async def read_end(conn: Connection) -> LogEnd:
    """Return the end of the log.

    The last settled place is never before the start, even if the newest events were pruned, because
    a reading must not begin before the start.
    """
    sent = time.monotonic()
    row = (await conn.execute(_END)).one()
    snapshot = _snapshot(row["head"], sent)
    top = (row["top_xid"], row["top_position"])
    return LogEnd(
        snapshot=snapshot,
        seen=SeenEvents(top=top, open=snapshot.open_below(top)),
        settled=max((row["xid"], row["position"]), snapshot.start),
    )


async def read_unseen(conn: Connection, *, seen: SeenEvents, limit: int) -> Reading:
    """Return visible events that have not been seen, in the order of their places.

    The cost depends on the size of the page. The number of events seen after an open transaction
    does not affect it.

    Args:
        conn: a connection without a transaction, or in READ COMMITTED.
        seen: the events seen by previous readings.
        limit: the maximum number of events. The page ends earlier at `PAGE_BYTES`. Each limit needs
            its own prepared statement.
    """
    # If an event has become visible since the previous reading, its writer had not ended then.
    # Either the writer is in seen.open, or its id and the event's xid are above every seen event.
    sent = time.monotonic()
    rows = await conn.execute(
        _unseen(limit),
        {
            "top_xid": seen.top[0],
            "top_position": seen.top[1],
            # Text, because asyncpg would query the array types on each connection.
            "open": [str(xid) for xid in seen.open],
            "after_xids": [str(place[0]) for place in seen.open.values()],
            "after_positions": [str(place[1]) for place in seen.open.values()],
        },
    )
    snapshot = _snapshot(rows[0]["head"], sent)
    page = _page(rows[1:], limit)
    return Reading(snapshot=snapshot, page=page, seen=_seen_after(seen, snapshot, page))


def _seen_after(seen: SeenEvents, snapshot: Snapshot, page: EventPage) -> SeenEvents:
    """Return the events that have been seen after a page."""
    if page.end is None:
        top, end = seen.top, None
    else:
        top = max(seen.top, page.end)
        # A page that ends after all seen events contains all unseen events before them.
        end = None if page.complete or page.end == top else page.end
    still_open = snapshot.open_below(top)
    if end is None:
        return SeenEvents(top=top, open=still_open)
    # Events of an ended transaction may be both before and after the end of the page.
    ended = {xid: max(after, end) for xid, after in seen.open.items() if xid not in snapshot.open}
    return SeenEvents(top=top, open=ended | still_open)


async def read_start(conn: Connection, *, tenant: str) -> Place:
    """Return the place up to which a tenant's events may have been pruned.

    To check that a page is complete, read the start after the page, in READ COMMITTED. The page is
    complete if the start is not after its beginning.
    """
    row = (await conn.execute(_START, {"tenant": tenant})).one_or_none()
    return BEGINNING if row is None else (row.xid, row.position)


async def read_range(conn: Connection, *, after: Place, through: Place, limit: int) -> EventPage:
    """Return events after the place `after` and up to `through`, which must have settled.

    Args:
        conn: a connection, with or without a transaction. Settled events are the same in every
            later transaction.
        after: the place before the first event.
        through: the last place of the range.
        limit: the maximum number of events. The page ends earlier at `PAGE_BYTES`.
    """
    rows = await conn.execute(
        _RANGE,
        {
            "after_xid": after[0],
            "after_position": after[1],
            "through_xid": through[0],
            "through_position": through[1],
            "limit": limit,
        },
    )
    return _page(rows, limit)


def _snapshot(head: str, sent: float) -> Snapshot:
    """Parse the first column of a response."""
    received = time.monotonic()
    visible, clock, start_xid, start_position = head.split(" ")
    # xmin:xmax:xip,xip,… (PostgreSQL's documentation, "Snapshot Components").
    horizon, unassigned, in_progress = visible.split(":")
    return Snapshot(
        horizon=int(horizon),
        next=int(unassigned),
        open=frozenset(int(xid) for xid in in_progress.split(",") if xid),
        start=(int(start_xid), int(start_position)),
        clock=ClockReading(sent=sent, time=float(clock), received=received),
    )


def _page(rows: Sequence[Row], limit: int) -> EventPage:
    return EventPage(
        # The job of an old event may have been pruned. The event still counts toward the page.
        events=[to_event(row) for row in rows if row["job_type"] is not None],
        end=(rows[-1]["xid"], rows[-1]["position"]) if rows else None,
        complete=not rows or len(rows) == rows[0]["found"] < limit,
    )


def _page_rows(rows: str, order: str) -> str:
    """Return the rows of `job_events` up to the row that fills a page, and the number of all rows.

    The size of output is exact. The size of progress and errors is limited when they are written.
    """
    return f"""
        SELECT * FROM (
            SELECT *, count(*) OVER () AS found,
                sum(size) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) - size AS size_before
            FROM (
                SELECT *, coalesce(octet_length(output::text), 0)
                    + least(coalesce(pg_column_size(progress), 0), {MAX_PROGRESS_BYTES})
                    + coalesce(pg_column_size(error), 0) AS size
                FROM ({rows}) listed
            ) measured
        ) summed
        WHERE size_before < {PAGE_BYTES}
    """


# The condition is a range of (job_id, seq). With `job_id = …`, the planner expects few events, and
# would read and sort the whole history for each page.
def _history(condition: str) -> TextClause:
    rows = f"""
        SELECT * FROM job_events
        WHERE (job_id, seq) > (CAST(:id AS uuid), CAST(:after_seq AS integer))
            AND (job_id, seq) <= (CAST(:id AS uuid), {2**31 - 1}) {condition}
        ORDER BY job_id, seq LIMIT :limit
    """
    return text(f"""
        SELECT {EVENT_COLUMNS}, e.found FROM ({_page_rows(rows, "job_id, seq")}) e
        JOIN jobs j ON j.id = CAST(:id AS uuid) AND j.tenant = :tenant
        ORDER BY e.seq
    """)


_HISTORY = _history("")
_OUTPUT = _history("AND type = 'output'")

# The snapshot, the clock and the start are one text, so event rows have only one additional column,
# which is empty.
_HEAD = """
    SELECT concat_ws(' ', pg_current_snapshot(), extract(epoch FROM clock_timestamp()),
        coalesce(start.start_xid, '0'), coalesce(start.start_position, 0)) AS head
    FROM (SELECT 1) always
    LEFT JOIN (
        SELECT start_xid, start_position FROM event_log
        ORDER BY start_xid DESC, start_position DESC LIMIT 1
    ) start ON true
"""

_START = text("""
    SELECT start_xid::text::bigint AS xid, start_position AS position FROM event_log
    WHERE tenant = :tenant
""")

_END = text(f"""
    SELECT head, coalesce(newest.xid, 0) AS top_xid, coalesce(newest.position, 0) AS top_position,
        coalesce(settled.xid, 0) AS xid, coalesce(settled.position, 0) AS position
    FROM ({_HEAD}) head
    LEFT JOIN (
        SELECT e.xid::text::bigint AS xid, e.position FROM job_events e
        ORDER BY e.xid DESC, e.position DESC LIMIT 1
    ) newest ON true
    LEFT JOIN (
        SELECT e.xid::text::bigint AS xid, e.position FROM job_events e
        WHERE e.xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY e.xid DESC, e.position DESC LIMIT 1
    ) settled ON true
""")


# The statement scans indexes. No scan is longer than the page. One scan begins after the last seen
# event. Two more scans read the events of each transaction in `open`. The first finds events by
# xid. The second finds, by writer, the few events whose xid is larger than their writer. Each scan
# is a separate loop, so a generic plan cannot merge them into one long scan. The limit is a
# literal, because the planner estimates a parameter as a tenth of the table.
@lru_cache
def _unseen(limit: int) -> TextClause:
    rows = f"""
        SELECT * FROM (
            (
                SELECT * FROM job_events WHERE (xid, position)
                    > (CAST(:top_xid AS xid8), CAST(:top_position AS bigint))
                ORDER BY xid, position LIMIT {limit:d}
            )
            UNION ALL
            SELECT own.* FROM open CROSS JOIN LATERAL (
                SELECT * FROM job_events o
                WHERE o.xid = open.xid AND o.writer = o.xid
                    AND (o.xid, o.position) > (open.after_xid, open.after_position)
                ORDER BY o.xid, o.position LIMIT {limit:d}
            ) own
            UNION ALL
            SELECT raised.* FROM open CROSS JOIN LATERAL (
                -- OFFSET 0 keeps the planner from scanning all places for a writer.
                SELECT * FROM (
                    SELECT * FROM job_events w
                    WHERE w.writer = open.xid AND w.writer <> w.xid OFFSET 0
                ) r
                WHERE (r.xid, r.position)
                        <= (CAST(:top_xid AS xid8), CAST(:top_position AS bigint))
                    AND (r.xid, r.position) > (open.after_xid, open.after_position)
                ORDER BY r.xid, r.position LIMIT {limit:d}
            ) raised
        ) unseen
        ORDER BY xid, position LIMIT {limit:d}
    """
    return text(f"""
        WITH open AS (
            SELECT * FROM unnest(
                CAST(CAST(:open AS text[]) AS xid8[]),
                CAST(CAST(:after_xids AS text[]) AS xid8[]),
                CAST(CAST(:after_positions AS text[]) AS bigint[])
            ) AS t (xid, after_xid, after_position)
        )
        SELECT {NO_EVENT}, NULL AS found, head FROM ({_HEAD}) head
        UNION ALL
        SELECT * FROM (
            SELECT {EVENT_COLUMNS}, e.found, NULL FROM ({_page_rows(rows, "xid, position")}) e
            LEFT JOIN jobs j ON j.id = e.job_id
            ORDER BY e.xid, e.position
        ) events
    """)


_RANGE_ROWS = """
    SELECT * FROM job_events
    WHERE (xid, position)
            > (CAST(:after_xid AS xid8), CAST(:after_position AS bigint))
        AND (xid, position)
            <= (CAST(:through_xid AS xid8), CAST(:through_position AS bigint))
    ORDER BY xid, position LIMIT :limit
"""
_RANGE = text(f"""
    SELECT {EVENT_COLUMNS}, e.found FROM ({_page_rows(_RANGE_ROWS, "xid, position")}) e
    LEFT JOIN jobs j ON j.id = e.job_id
    ORDER BY e.xid, e.position
""")
