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

A look is one statement, so that it costs one round trip and sees one snapshot. One that is full
ends at a place, and the next one goes on from there, though it sees more by then: what the first
one could have seen behind its end, and what has become visible since, wherever it stands. `Seen`
tells both from what was seen.

A place that is given to anybody is always that of an event. A crash of the server lets it give
transaction ids again, those of transactions of which nothing had reached its disk. What has been
committed is on its disk, so every id that is given later lies above every event; but it may lie
below the end of an earlier snapshot.
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
from headrace_core.store.sql.rows import EVENT_COLUMNS, MAX_PROGRESS_BYTES, NO_EVENT, to_event

# The place of an event in the log: (xid, position).
Place = tuple[int, int]

# Before every event.
BEGINNING: Place = (0, 0)

# The size of a page's documents at which the page ends, in bytes. Many streams hold a page each
# while their readers are slow.
PAGE_BYTES: Final = 1024 * 1024

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
    """Which events have been seen: those up to the place `top` whose writer is not in `open`.

    `open` has the transactions that were open then, each with the place up to which its events have
    been seen since: BEGINNING, unless it had ended by a look that was full.

    It needs to know nothing of the transactions above `top`, the place of an event, and so stays
    true when their ids are given again after a crash.
    """

    top: Place
    open: Mapping[int, Place]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """What the database's clock showed between two moments of `time.monotonic()` here.

    `time` is in seconds since 1970.
    """

    asked: float
    time: float
    answered: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a statement has seen: all that was committed, except by the transactions in `open`.

    `horizon` is the oldest transaction that was still open: all below it had ended; `next` is the
    one behind all that had ended, and so above every event. `start` is the greatest place up to
    which anything was pruned; `clock` what the database's clock showed.
    """

    horizon: int
    next: int
    open: frozenset[int]
    start: Place
    clock: ClockReading

    def open_below(self, place: Place) -> dict[int, Place]:
        """The transactions that were open and may write events that stand before a place."""
        return {xid: BEGINNING for xid in self.open if xid <= place[0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Some events in the order of their places.

    `end` is the place of the last one, None when there is none; `complete` says that there was
    nothing behind it.
    """

    events: Sequence[JobEvent]
    end: Place | None
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A page of what had not been seen, the snapshot that it was read in, and what is seen now."""

    snapshot: Snapshot
    page: EventPage
    seen: Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEnd:
    """Where the log ends in a snapshot: what there is to see, and the last settled place."""

    snapshot: Snapshot
    seen: Seen
    settled: Place


async def list_events(
    conn: Connection, *, tenant: str, job_id: JobId, after_seq: int, limit: int
) -> EventPage:
    """Return events of a job with numbers above `after_seq`, in order.

    Args:
        conn: in any transaction.
        tenant: whose job it is.
        job_id: the job.
        after_seq: the number of the last event before the page.
        limit: the most events of the page. It ends earlier at `PAGE_BYTES`.

    Raises:
        JobNotFound: the tenant has no such job.
    """
    page = {"tenant": tenant, "id": job_id, "after_seq": after_seq, "limit": limit}
    return await _list(conn, _HISTORY, page)


async def list_output(
    conn: Connection, *, tenant: str, job_id: JobId, after_seq: int, limit: int
) -> EventPage:
    """As `list_events`, of the events that have output."""
    page = {"tenant": tenant, "id": job_id, "after_seq": after_seq, "limit": limit}
    return await _list(conn, _OUTPUT, page)


async def _list(conn: Connection, statement: TextClause, page: dict[str, Any]) -> EventPage:
    rows = await conn.execute(statement, page)
    if not rows:
        await get_job(conn, tenant=page["tenant"], job_id=page["id"], full=False)
    return _page(rows, page["limit"])


async def read_end(conn: Connection) -> LogEnd:
    """Where the log ends.

    The last settled place may be that of an event which has been pruned: nobody shall begin before
    the start.
    """
    asked = time.monotonic()
    row = (await conn.execute(_END)).one()
    snapshot = _snapshot(row["head"], asked)
    top = (row["top_xid"], row["top_position"])
    return LogEnd(
        snapshot=snapshot,
        seen=Seen(top=top, open=snapshot.open_below(top)),
        settled=max((row["xid"], row["position"]), snapshot.start),
    )


async def read_unseen(conn: Connection, *, seen: Seen, limit: int) -> Look:
    """Up to `limit` events that are visible and have not been seen, in the order of their places.

    The page ends earlier at `PAGE_BYTES`. The cost depends on the events of the page, however many
    were seen behind an open transaction.

    Args:
        conn: with no transaction open, or in READ COMMITTED.
        seen: from the look before.
        limit: how many events at most; each other number is a statement of its own.
    """
    # An event that is visible now and was not then: its writer was open then, and either had an id
    # above every event that was seen, and so has the event, or stands in seen.open.
    asked = time.monotonic()
    rows = await conn.execute(
        _unseen(limit),
        {
            "top_xid": seen.top[0],
            "top_position": seen.top[1],
            # As text: asyncpg would ask each connection what arrays of these types are.
            "open": [str(xid) for xid in seen.open],
            "after_xids": [str(place[0]) for place in seen.open.values()],
            "after_positions": [str(place[1]) for place in seen.open.values()],
        },
    )
    snapshot = _snapshot(rows[0]["head"], asked)
    page = _page(rows[1:], limit)
    return Look(snapshot=snapshot, page=page, seen=_with_page(seen, snapshot, page))


def _with_page(seen: Seen, snapshot: Snapshot, page: EventPage) -> Seen:
    """What has been seen with a page that was read in a snapshot."""
    if page.end is None:
        top, end = seen.top, None
    else:
        top = max(seen.top, page.end)
        # When it has come beyond what was seen it is through with all that lies before.
        end = None if page.complete or page.end == top else page.end
    still_open = snapshot.open_below(top)
    if end is None:
        return Seen(top=top, open=still_open)
    # A transaction that has just ended may stand before those that are half read.
    ended = {xid: max(after, end) for xid, after in seen.open.items() if xid not in snapshot.open}
    return Seen(top=top, open=ended | still_open)


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
        limit: how many events at most. The page ends earlier at `PAGE_BYTES`.
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


def _snapshot(head: str, asked: float) -> Snapshot:
    """Reads the head of an answer."""
    answered = time.monotonic()
    visible, clock, start_xid, start_position = head.split(" ")
    # xmin:xmax:xip,xip,… (PostgreSQL's documentation, "Snapshot Components").
    horizon, unassigned, in_progress = visible.split(":")
    return Snapshot(
        horizon=int(horizon),
        next=int(unassigned),
        open=frozenset(int(xid) for xid in in_progress.split(",") if xid),
        start=(int(start_xid), int(start_position)),
        clock=ClockReading(asked=asked, time=float(clock), answered=answered),
    )


def _page(rows: Sequence[Row], limit: int) -> EventPage:
    return EventPage(
        # The job of an old event may be gone already; the event still counts as a row of the page.
        events=[to_event(row) for row in rows if row["job_type"] is not None],
        end=(rows[-1]["xid"], rows[-1]["position"]) if rows else None,
        complete=not rows or len(rows) == rows[0]["found"] < limit,
    )


def _cut(rows: str, order: str) -> str:
    """Rows of `job_events` up to the one that fills a page, and how many there are with the rest.

    A piece of output is measured as it is; progress and errors have limits of their own.
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


# The range is one of (job_id, seq), since the planner expects a handful of events of a job of which
# it knows nothing, and would read and sort all of a long history for each page of it.
def _history(condition: str) -> TextClause:
    rows = f"""
        SELECT * FROM job_events
        WHERE (job_id, seq) > (CAST(:id AS uuid), CAST(:after_seq AS integer))
            AND (job_id, seq) <= (CAST(:id AS uuid), {2**31 - 1}) {condition}
        ORDER BY job_id, seq LIMIT :limit
    """
    return text(f"""
        SELECT {EVENT_COLUMNS}, e.found FROM ({_cut(rows, "job_id, seq")}) e
        JOIN jobs j ON j.id = CAST(:id AS uuid) AND j.tenant = :tenant
        ORDER BY e.seq
    """)


_HISTORY = _history("")
_OUTPUT = _history("AND type = 'output'")

# The snapshot, the clock and the start in one text, so that the rows of events below it carry one
# empty column and no more.
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


# Walks along indexes, none longer than the page: behind what was seen, and for each transaction
# that was open then along its own events, found by their xid or, for the few that have a larger one
# than their writer's id, by their writer. Each is a loop of its own, so that no plan, however
# general, can make one long walk of them; and the limit is a number, since the planner takes one
# that it does not know for a tenth of the table.
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
                -- OFFSET 0 keeps the planner from a walk along the places, in search of a
                -- writer.
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
            SELECT {EVENT_COLUMNS}, e.found, NULL FROM ({_cut(rows, "xid, position")}) e
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
    SELECT {EVENT_COLUMNS}, e.found FROM ({_cut(_RANGE_ROWS, "xid, position")}) e
    LEFT JOIN jobs j ON j.id = e.job_id
    ORDER BY e.xid, e.position
""")
