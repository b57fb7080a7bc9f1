"""Immediate pruning of all ended jobs."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from sqlalchemy import text

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import TERMINAL
from headrace_core.store.jobs.prune import PruneResult, prune_jobs
from headrace_core.store.sql.database import Database
from support.leading import lead
from support.until import until


async def until_settled(database: Database) -> None:
    """Wait until all events have settled, which an older transaction (autovacuum) may delay."""

    async def settled() -> bool:
        async with database.transaction() as connection:
            return bool(await connection.scalar(_SETTLED))

    await until(settled)


async def prune(database: Database, **options: Any) -> PruneResult:
    """Prune all ended jobs, read or unread, once their events have settled.

    Args:
        database: the database.
        options: the options of `prune_jobs`. Without a state, the result is the sum for all states.
    """
    await until_settled(database)
    defaults: dict[str, Any] = {
        "term": await lead(database),
        "tenant": DEFAULT_TENANT,
        "older_than": timedelta(),
        "held_for": timedelta(),
        "limit": 1000,
    }
    states = [options.pop("state")] if "state" in options else sorted(TERMINAL)
    each = []
    for state in states:
        async with database.transaction() as connection:
            each.append(await prune_jobs(connection, **{**defaults, **options, "state": state}))
    return PruneResult(
        jobs=sum(pruned.jobs for pruned in each),
        events=sum(pruned.events for pruned in each),
        end_time=max((pruned.end_time for pruned in each if pruned.end_time), default=None),
        unread=sum((Counter(pruned.unread) for pruned in each), Counter()),
    )


_SETTLED = text("""
    SELECT NOT EXISTS (
        SELECT 1 FROM job_events WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())
    )
""")
