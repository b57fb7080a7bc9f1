"""Queries for jobs."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    func,
    literal_column,
    not_,
    or_,
    select,
    text,
    true,
)

from headrace_core.domain.errors import JobNotFound
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import Job
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.query import Comparison, Query
from headrace_core.domain.stats import JobCount, Stats
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.rows import job_columns, to_job
from headrace_core.store.sql.tables import jobs
from headrace_core.store.sql.times import readable_times_condition

_OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


async def get_job(conn: Connection, *, tenant: str, job_id: JobId, full: bool) -> Job:
    """Return a job.

    Raises:
        JobNotFound: the tenant does not have this job.
    """
    statement = _GET_FULL if full else _GET_BASIC
    row = (await conn.execute(statement, {"tenant": tenant, "id": job_id})).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    return to_job(row)


async def lock_job(conn: Connection, *, tenant: str, job_id: JobId) -> None:
    """Lock a job against other changes until the transaction ends.

    A separate statement is needed, so that the next statement reads the changes that were committed
    while this one waited for the lock.

    Raises:
        JobNotFound: the tenant does not have this job.
    """
    locked = await conn.execute(_LOCK, {"tenant": tenant, "id": job_id})
    if locked.one_or_none() is None:
        raise JobNotFound(job_id)


async def list_jobs(
    conn: Connection,
    *,
    tenant: str,
    query: Query,
    limit: int,
    before: JobId | None,
    full: bool,
) -> list[Job]:
    """Return up to `limit` matching jobs that are older than `before`, the newest first."""
    # The best index depends on the query values.
    await conn.execute(_USE_CUSTOM_PLANS)
    statement: Select[Any] = (
        select(literal_column(job_columns(full=full)))
        .select_from(jobs)
        .where(jobs.c.tenant == tenant, *(_clause(clause) for clause in query))
        .order_by(jobs.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(jobs.c.id < before)
    return [to_job(row) for row in (await conn.execute(statement))]


def _clause(comparisons: tuple[Comparison, ...]) -> ColumnElement[bool]:
    return or_(*(_comparison(comparison) for comparison in comparisons))


def _comparison(comparison: Comparison) -> ColumnElement[bool]:
    value: Any = comparison.value
    if comparison.field == "labels":
        if comparison.operator == ":":
            exists: ColumnElement[bool] = jobs.c.labels.has_key(comparison.key)
            return exists
        has: ColumnElement[bool] = and_(
            # The condition of the partial index, so the planner can use it.
            jobs.c.labels != text("'{}'::jsonb"),
            jobs.c.labels.contains({comparison.key: value}),
        )
        return has if comparison.operator == "=" else not_(has)
    column = jobs.c["due_time" if comparison.field == "schedule_time" else comparison.field]
    compared: ColumnElement[bool] = _OPERATORS[comparison.operator](column, value)
    if comparison.operator == "!=" and column.nullable:
        return or_(compared, column.is_(None))
    return compared


async def read_stats(conn: Connection, *, tenant: str, query: Query = ()) -> Stats:
    """Count a tenant's jobs that match a query, by queue, type and state.

    Args:
        conn: a connection with a snapshot, because the statement can read millions of rows.
        tenant: the tenant.
        query: selects the jobs; empty for all.
    """
    conditions = [jobs.c.tenant == tenant, *(_clause(clause) for clause in query)]
    rows = await conn.execute(_stats(conditions))
    oldest: dict[str, datetime] = {}
    for row in rows:
        if row.oldest is not None:
            oldest[row.queue] = min(row.oldest, oldest.get(row.queue, row.oldest))
    return Stats(
        time=rows[0].time,
        counts=[
            JobCount(row.queue, row.type, JobState(row.state), row.jobs)
            for row in rows
            if row.queue is not None
        ],
        oldest=oldest,
    )


async def database_time(conn: Connection) -> datetime:
    """Return the time of the database's clock."""
    now: datetime = await conn.scalar(select(func.clock_timestamp()))
    return now


def _stats(conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Return the statement that counts jobs; one row without counts if no job matches."""
    oldest: ColumnElement[datetime] = literal_column(
        "min(queue_time) FILTER (WHERE state = 'queued' "
        f"AND {readable_times_condition(['queue_time'])})"
    )
    columns = (jobs.c.queue, jobs.c.type, jobs.c.state)
    counts = (
        select(*columns, func.count().label("jobs"), oldest.label("oldest"))
        .where(*conditions)
        .group_by(*columns)
        .subquery("c")
    )
    now = select(func.clock_timestamp().label("time")).subquery("m")
    return (
        select(now.c.time, counts)
        .select_from(now.outerjoin(counts, true()))
        .order_by(counts.c.queue, counts.c.type, counts.c.state)
    )


_USE_CUSTOM_PLANS = text("SET LOCAL plan_cache_mode = force_custom_plan")
_GET = "SELECT {columns} FROM jobs WHERE tenant = :tenant AND id = :id"
_GET_FULL = text(_GET.format(columns=job_columns(full=True)))
_GET_BASIC = text(_GET.format(columns=job_columns(full=False)))
_LOCK = text("SELECT id FROM jobs WHERE tenant = :tenant AND id = :id FOR NO KEY UPDATE")
