"""The history of each minute: counts of jobs by queue and type, and histograms of their durations.

The leading scheduler adds settled events in the order of their places, and stores the place up to
which it has added them in the same transaction. Each event is therefore counted exactly once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import text

from headrace_core.domain.durations import LAST_BUCKET
from headrace_core.domain.errors import StaleTerm
from headrace_core.domain.monitor import HistoryPoint
from headrace_core.store.event_log import BEGINNING, Place
from headrace_core.store.leadership import CURRENT_TERM, check_term
from headrace_core.store.monitor import RUN_SECONDS, WAIT_SECONDS, bucket_sql
from headrace_core.store.sql.connection import Connection, Row

# The columns with counts, and the condition of the events that each one counts.
_COUNTS: Final[Mapping[str, str]] = {
    "submitted": "type = 'submitted'",
    "started": "type = 'started'",
    "retried": "type = 'retry_scheduled'",
    "succeeded": "state = 'succeeded'",
    "failed": "state = 'failed'",
    "cancelled": "state = 'cancelled'",
}


class _Minute(NamedTuple):
    tenant: str
    minute: datetime
    queue: str
    type: str


@dataclass(slots=True)
class _Tally:
    counts: Counter[str] = field(default_factory=Counter)
    waits: Counter[int] = field(default_factory=Counter)
    runs: Counter[int] = field(default_factory=Counter)


class JobDurations(NamedTuple):
    """Counts of waits and runs by bucket; see `headrace_core.domain.durations`."""

    waits: Counter[int]
    runs: Counter[int]


class AddedEvents(NamedTuple):
    """The result of one transaction.

    Attributes:
        events: the number of added events.
        place: the place after them.
        durations: the durations that they ended, by queue and type of the jobs.
    """

    events: int
    place: Place
    durations: Mapping[tuple[str, str], JobDurations] = {}


async def read_place(conn: Connection) -> Place:
    """Return the place up to which all events were added."""
    row = (await conn.execute(_PLACE)).one_or_none()
    return BEGINNING if row is None else (row.xid, row.position)


async def add_events(conn: Connection, *, term: int, after: Place, limit: int) -> AddedEvents:
    """Add a page of settled events to the history.

    Args:
        conn: a connection with a transaction.
        term: the term of the scheduler.
        after: the place up to which events were added.
        limit: the maximum number of events.

    Raises:
        StaleTerm: the term is over, or another scheduler has added the events.
    """
    rows = await conn.execute(
        _PAGE, {"after_xid": after[0], "after_position": after[1], "limit": limit}
    )
    place = rows[0].xid, rows[0].position
    if not rows[0].page_events:
        return AddedEvents(0, after)
    moved = await conn.execute(
        _MOVE,
        {
            "term": term,
            "before_xid": after[0],
            "before_position": after[1],
            "xid": place[0],
            "position": place[1],
        },
    )
    if not moved.rowcount:
        raise StaleTerm(term)
    tallies = _tally(rows)
    if tallies:
        await conn.execute(_ADD, _parameters(tallies))
    return AddedEvents(rows[0].page_events, place, _durations(tallies))


def _durations(tallies: Mapping[_Minute, _Tally]) -> Mapping[tuple[str, str], JobDurations]:
    durations: dict[tuple[str, str], JobDurations] = {}
    for key, tally in tallies.items():
        if tally.waits or tally.runs:
            found = durations.setdefault((key.queue, key.type), JobDurations(Counter(), Counter()))
            found.waits.update(tally.waits)
            found.runs.update(tally.runs)
    return durations


def _tally(rows: Sequence[Row]) -> Mapping[_Minute, _Tally]:
    tallies: dict[_Minute, _Tally] = {}
    for row in rows:
        if row.tenant is None:
            continue
        tally = tallies.setdefault(
            _Minute(row.tenant, row.minute, row.queue, row.job_type), _Tally()
        )
        for name in _COUNTS:
            tally.counts[name] += row[name]
        if row.wait_bucket is not None:
            tally.waits[row.wait_bucket] += row.events
        if row.run_bucket is not None:
            tally.runs[row.run_bucket] += row.events
    # Transactions of different terms lock rows in the same order.
    return {minute: tallies[minute] for minute in sorted(tallies)}


def _parameters(tallies: Mapping[_Minute, _Tally]) -> Mapping[str, object]:
    return {
        "tenants": [key.tenant for key in tallies],
        "minutes": [key.minute for key in tallies],
        "queues": [key.queue for key in tallies],
        "types": [key.type for key in tallies],
        **{name: [tally.counts[name] for tally in tallies.values()] for name in _COUNTS},
        "waits": [_array(tally.waits) for tally in tallies.values()],
        "runs": [_array(tally.runs) for tally in tallies.values()],
    }


def _array(buckets: Mapping[int, int]) -> str:
    """Return the counts of all buckets up to the last one, as the text of an array."""
    counts = (str(buckets[bucket]) for bucket in range(max(buckets, default=-1) + 1))
    return f"{{{','.join(counts)}}}"


async def prune_history(conn: Connection, *, term: int, older_than: timedelta, limit: int) -> int:
    """Remove up to `limit` minutes, and return their number.

    Raises:
        StaleTerm: the term is over.
    """
    parameters = {"term": term, "older_than": older_than, "limit": limit}
    removed: int = check_term(term, await conn.execute(_PRUNE, parameters))[0][0]
    return removed


async def read_history(
    conn: Connection,
    *,
    tenant: str,
    queues: Collection[str] = (),
    types: Collection[str] = (),
    points: int,
    step: timedelta,
) -> Sequence[HistoryPoint]:
    """Return the newest periods of a tenant, the earliest first; the last one is not over.

    Args:
        conn: a connection with a snapshot.
        tenant: the tenant.
        queues: the queues; empty for all.
        types: the job types; empty for all.
        points: the number of periods.
        step: the length of a period, in whole minutes. Periods begin at multiples of it since 1970.
    """
    parameters = {
        "tenant": tenant,
        "queues": list(queues),
        "types": list(types),
        "points": points,
        "step": step.total_seconds(),
    }
    waits: dict[datetime, Counter[int]] = {}
    runs: dict[datetime, Counter[int]] = {}
    for row in await conn.execute(_READ_BUCKETS, parameters):
        for counters, count in ((waits, row.waits), (runs, row.runs)):
            if count:
                counters.setdefault(row.time, Counter())[row.bucket] = int(count)
    return [
        HistoryPoint(
            time=row.time,
            counts={name: int(row[name]) for name in _COUNTS},
            waits=waits.get(row.time, {}),
            runs=runs.get(row.time, {}),
        )
        for row in await conn.execute(_READ, parameters)
    ]


_PLACE = text("SELECT xid::text::bigint AS xid, position FROM history_place")

# The scheduler may not read the contents of jobs and events, so the columns are listed. The first
# columns of each row describe the page, which can contain no event of interest.
_PAGE = text(f"""
    WITH page AS MATERIALIZED (
        SELECT job_id, seq, type, state, attempt, time, xid, position FROM job_events
        WHERE (xid, position) > (CAST(:after_xid AS xid8), CAST(:after_position AS bigint))
            AND xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY xid, position LIMIT :limit
    ),
    timed AS (
        SELECT j.tenant, date_trunc('minute', e.time, 'UTC') AS minute, j.queue,
            j.type AS job_type, e.type, e.state, {WAIT_SECONDS} AS wait, {RUN_SECONDS} AS run
        FROM page e JOIN jobs j ON j.id = e.job_id
        LEFT JOIN job_events p ON p.job_id = e.job_id AND p.seq = e.seq - 1
        WHERE e.type NOT IN ('progressed', 'output', 'cancel_requested') AND isfinite(e.time)
    )
    SELECT l.xid::text::bigint AS xid, l.position, n.page_events, t.*
    FROM (SELECT count(*) AS page_events FROM page) n
    LEFT JOIN (
        SELECT xid, position FROM page ORDER BY xid DESC, position DESC LIMIT 1
    ) l ON true
    LEFT JOIN (
        SELECT tenant, minute, queue, job_type, {bucket_sql("wait")} AS wait_bucket,
            {bucket_sql("run")} AS run_bucket, count(*) AS events,
            {", ".join(f"count(*) FILTER (WHERE {of}) AS {name}" for name, of in _COUNTS.items())}
        FROM timed GROUP BY 1, 2, 3, 4, 5, 6
    ) t ON true
""")

_MOVE = text(f"""
    WITH {CURRENT_TERM}
    INSERT INTO history_place AS h (xid, position)
    SELECT CAST(:xid AS xid8), CAST(:position AS bigint) FROM current_term
    ON CONFLICT (singleton) DO UPDATE SET xid = excluded.xid, position = excluded.position
    WHERE h.xid = CAST(:before_xid AS xid8) AND h.position = CAST(:before_position AS bigint)
""")


def _sum_arrays(name: str) -> str:
    return f"""{name} = ARRAY(
            SELECT coalesce(a, 0) + coalesce(b, 0)
            FROM unnest(m.{name}, excluded.{name}) WITH ORDINALITY AS u (a, b, number)
            ORDER BY number
        )"""


_ADD = text(f"""
    INSERT INTO job_minutes AS m (tenant, minute, queue, type, {", ".join(_COUNTS)}, waits, runs)
    SELECT tenant, minute, queue, type, {", ".join(_COUNTS)}, waits::bigint[], runs::bigint[]
    FROM unnest(
        CAST(:tenants AS text[]), CAST(:minutes AS timestamptz[]), CAST(:queues AS text[]),
        CAST(:types AS text[]), {", ".join(f"CAST(:{name} AS bigint[])" for name in _COUNTS)},
        CAST(:waits AS text[]), CAST(:runs AS text[])
    ) AS t (tenant, minute, queue, type, {", ".join(_COUNTS)}, waits, runs)
    ON CONFLICT (tenant, minute, queue, type) DO UPDATE SET
        {", ".join(f"{name} = m.{name} + excluded.{name}" for name in _COUNTS)},
        {_sum_arrays("waits")},
        {_sum_arrays("runs")}
""")

_PRUNE = text(f"""
    WITH {CURRENT_TERM},
    old AS (
        DELETE FROM job_minutes m USING (
            SELECT tenant, minute, queue, type FROM job_minutes
            WHERE minute < clock_timestamp() - CAST(:older_than AS interval)
            ORDER BY minute LIMIT :limit
        ) o
        WHERE EXISTS (SELECT FROM current_term) AND m.tenant = o.tenant AND m.minute = o.minute
            AND m.queue = o.queue AND m.type = o.type
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM old) FROM current_term
""")

# The periods, from the earliest to the current one.
_PERIODS: Final = """
    SELECT to_timestamp((n.last - n.number) * CAST(:step AS double precision)) AS time,
        to_timestamp((n.last - n.number + 1) * CAST(:step AS double precision)) AS end_time
    FROM (
        SELECT number, floor(
            extract(epoch FROM now())::double precision / CAST(:step AS double precision)
        ) AS last
        FROM generate_series(0, CAST(:points AS integer) - 1) AS number
    ) n
"""

_SELECTED: Final = """m.tenant = :tenant AND m.minute >= p.time AND m.minute < p.end_time
            AND (CAST(:queues AS text[]) = '{}' OR m.queue = ANY (CAST(:queues AS text[])))
            AND (CAST(:types AS text[]) = '{}' OR m.type = ANY (CAST(:types AS text[])))"""

_READ = text(f"""
    SELECT p.time, s.* FROM ({_PERIODS}) p CROSS JOIN LATERAL (
        SELECT {", ".join(f"coalesce(sum(m.{name}), 0) AS {name}" for name in _COUNTS)}
        FROM job_minutes m WHERE {_SELECTED}
    ) s
    ORDER BY p.time
""")

_READ_BUCKETS = text(f"""
    SELECT p.time, s.* FROM ({_PERIODS}) p CROSS JOIN LATERAL (
        SELECT u.number - 1 AS bucket, sum(u.waits) AS waits, sum(u.runs) AS runs
        FROM job_minutes m
        CROSS JOIN LATERAL unnest(m.waits, m.runs) WITH ORDINALITY AS u (waits, runs, number)
        WHERE {_SELECTED} AND u.number <= {LAST_BUCKET + 1}
        GROUP BY u.number
    ) s
""")
