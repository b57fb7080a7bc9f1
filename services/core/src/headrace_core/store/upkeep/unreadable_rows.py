"""The search for rows with unreadable fields. Rows are decoded in the same way as in services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import text

from headrace_core.domain.ids import JobId
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.documents import FieldReader, to_policy
from headrace_core.store.sql.rows import EVENT_COLUMNS, decode_event, decode_job, job_columns
from headrace_core.store.sql.tables import READABLE
from headrace_core.store.sql.times import finite_condition, readable_interval_condition
from headrace_core.store.subscriptions import read_filter

_LAST_ID = UUID(int=2**128 - 1)
_LAST_SEQ: Final = 2**31 - 1
# Events per page. A job can have many events of up to 64 KiB each.
_PAGE: Final = 1000


class UnreadableRow(NamedTuple):
    """The name of a row, its unreadable columns, and the key of a job or an event."""

    name: str
    fields: Sequence[str]
    job_id: JobId | None = None
    seq: int | None = None


async def unreadable_rows(
    conn: Connection, *, after: UUID, last: UUID | None, page: int = _PAGE
) -> list[UnreadableRow]:
    """Return the unreadable jobs and events with job ids above `after`, up to `last`.

    Args:
        conn: a connection, with or without a transaction.
        after: the id before the first job.
        last: the last id; None for no limit.
        page: the number of events that one statement reads.
    """
    bounds = {"after": after, "last": last or _LAST_ID}
    found = []
    for row in await conn.execute(_JOBS, bounds):
        fields = [*decode_job(row).unreadable, *(["rank"] if row.rank_unsound else [])]
        if fields:
            found.append(UnreadableRow(f"job {row.id}", fields, row.id))
    place = {"seq": _LAST_SEQ, "limit": page}
    while rows := await conn.execute(_EVENTS, bounds | place):
        for row in rows:
            # The labels belong to the job, so they are reported only for the job.
            fields = [name for name in decode_event(row)[1] if name != "labels"]
            if fields:
                name = f"event {row.seq} of job {row.job_id}"
                found.append(UnreadableRow(name, fields, row.job_id, row.seq))
        bounds["after"], place["seq"] = rows[-1].job_id, rows[-1].seq
    return found


async def other_unreadable_rows(conn: Connection) -> list[UnreadableRow]:
    """Return the unreadable rows of all other tables."""
    found = [UnreadableRow(row.name, ["times"]) for row in await conn.execute(_OTHER_TIMES)]
    for row in await conn.execute(_HANDLERS):
        fields = FieldReader()
        fields.read("retry", to_policy, row.retry, None)
        if row.timeout_unsound:
            fields.unreadable.append("timeout")
        if fields.unreadable:
            name = f"handler {row.type} of worker {row.worker_id}"
            found.append(UnreadableRow(name, fields.unreadable))
    for row in await conn.execute(_SUBSCRIPTIONS):
        fields = FieldReader()
        fields.read("filter", read_filter, row.filter, None)
        if fields.unreadable:
            name = f"subscription {row.name} of tenant {row.tenant}"
            found.append(UnreadableRow(name, fields.unreadable))
    return found


_JOBS = text(f"""
    SELECT {job_columns(full=False)},
        NOT ({finite_condition("rank")}) AS rank_unsound
    FROM jobs WHERE id > :after AND id <= :last AND (
        NOT ({READABLE["jobs"]}) OR labels <> '{{}}'::jsonb OR retry IS NOT NULL
        OR error IS NOT NULL OR progress IS NOT NULL
    )
    ORDER BY id
""")

_EVENTS = text(f"""
    SELECT {EVENT_COLUMNS} FROM (
        SELECT * FROM job_events
        WHERE (job_id, seq) > (CAST(:after AS uuid), CAST(:seq AS integer)) AND job_id <= :last
            AND (NOT ({READABLE["job_events"]}) OR error IS NOT NULL OR progress IS NOT NULL)
        ORDER BY job_id, seq LIMIT :limit
    ) e
    LEFT JOIN jobs j ON j.id = e.job_id
    ORDER BY e.job_id, e.seq
""")

_OTHER_TIMES = text(f"""
    SELECT 'batch ' || id AS name FROM batches WHERE NOT ({READABLE["batches"]})
    UNION ALL SELECT 'worker ' || id FROM workers WHERE NOT ({READABLE["workers"]})
    UNION ALL SELECT 'leadership' FROM leadership WHERE NOT ({READABLE["leadership"]})
    UNION ALL SELECT 'subscription ' || name || ' of tenant ' || tenant FROM subscriptions
        WHERE NOT ({READABLE["subscriptions"]})
""")

_HANDLERS = text(f"""
    SELECT worker_id, type, retry::text AS retry,
        NOT ({readable_interval_condition("timeout")}) AS timeout_unsound
    FROM worker_handlers
""")

_SUBSCRIPTIONS = text("SELECT tenant, name, filter::text AS filter FROM subscriptions")
