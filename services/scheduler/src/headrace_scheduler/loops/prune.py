"""Removes what has ended longer ago than it is kept."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from headrace_core.domain.lifecycle import TERMINAL, JobState
from headrace_core.domain.retention import Retention
from headrace_core.store.jobs.prune import list_tenants, prune_jobs, remove_leftovers
from headrace_core.store.sql.database import Database
from headrace_scheduler.loop import BREATH
from headrace_scheduler.metrics import Gauges

_log = structlog.get_logger()

# How many jobs a transaction looks at: it is over within some hundredths of a second.
_PAGE = 500
# Seconds between two runs. What is kept for days may stay for a minute more.
_INTERVAL = 60.0
# The shortest rest after a transaction, in seconds. A longer transaction is followed by as long a
# rest, so that pruning takes at most half of one connection's time, and less of a busy server's.
_BREATH = 0.05


class Prune:
    """Prunes jobs and their events, page by page, by tenant and state.

    Args:
        database: where the jobs are.
        term: the scheduler's.
        gauges: told how many jobs it has pruned.
        retention: how long jobs that have ended are kept.
        subscription_retention: how long at most while a subscription has not acknowledged it.
        clock: monotonic seconds.
    """

    name = "prune"
    breath = BREATH

    def __init__(
        self,
        *,
        database: Database,
        term: int,
        gauges: Gauges,
        retention: Retention,
        subscription_retention: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._term = term
        self._gauges = gauges
        self._retention = retention
        self._subscription_retention = subscription_retention
        self._clock = clock

    async def run_once(self) -> float:
        """Removes everything that is too old; returns the seconds until the next run."""
        async with self._database.statement() as connection:
            tenants = await list_tenants(connection)
        for tenant in tenants:
            for state in sorted(TERMINAL):
                await self._prune(tenant, state)
        await self._remove_leftovers()
        return _INTERVAL

    async def _prune(self, tenant: str, state: JobState) -> None:
        jobs = events = 0
        unread: Counter[str] = Counter()
        since: datetime | None = None
        try:
            while True:
                began = self._clock()
                async with self._database.transaction() as connection:
                    pruned = await prune_jobs(
                        connection,
                        term=self._term,
                        tenant=tenant,
                        state=state,
                        older_than=self._retention.of(tenant, state),
                        held_for=self._subscription_retention,
                        limit=_PAGE,
                        since=since,
                    )
                if not pruned.jobs:
                    break
                self._gauges.pruned += pruned.jobs
                jobs, events = jobs + pruned.jobs, events + pruned.events
                unread.update(pruned.unread)
                since = pruned.end_time
                await self._rest(began)
        finally:
            if jobs:
                _log.info("jobs_pruned", tenant=tenant, state=state, jobs=jobs, events=events)
            for subscription, count in unread.items():
                _log.warning(
                    "unread_jobs_pruned",
                    tenant=tenant,
                    state=state,
                    subscription=subscription,
                    jobs=count,
                )

    async def _remove_leftovers(self) -> None:
        """Removes the events of the jobs that had very many."""
        while True:
            began = self._clock()
            async with self._database.statement() as connection:
                if not await remove_leftovers(connection, term=self._term):
                    break
            await self._rest(began)

    async def _rest(self, began: float) -> None:
        await asyncio.sleep(max(_BREATH, self._clock() - began))
