"""Remove ended jobs after their retention."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from headrace_core.domain.lifecycle import TERMINAL, JobState
from headrace_core.domain.retention import Retention
from headrace_core.runtime.loop import Loop
from headrace_core.store.access.audit import list_audit_chains, prune_audit
from headrace_core.store.jobs.prune import list_tenants, prune_jobs, remove_leftovers
from headrace_core.store.sql.database import Database
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.timing import DEFAULT, Timing

_log = structlog.get_logger()

# Jobs per transaction. A transaction of this size takes a few hundredths of a second.
_PAGE_SIZE: Final = 500


class Prune(Loop):
    """Prune jobs and their events, page by page, by tenant and state, and the audit log.

    Args:
        database: the store.
        term: the term of the scheduler.
        gauges: counts pruned jobs.
        retention: the retention of ended jobs.
        subscription_retention: the maximum time to keep an unacknowledged job for a subscription.
        audit_retention: the age after which events of the audit log are removed.
        timing: the interval of the loop, and the pause between transactions.
        page: jobs per transaction.
        clock: monotonic seconds.
        sleep: waits for the given seconds.
    """

    name = "prune"

    def __init__(
        self,
        *,
        database: Database,
        term: int,
        gauges: Gauges,
        retention: Retention,
        subscription_retention: timedelta,
        audit_retention: timedelta,
        timing: Timing = DEFAULT,
        page: int = _PAGE_SIZE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._term = term
        self._gauges = gauges
        self._retention = retention
        self._subscription_retention = subscription_retention
        self._audit_retention = audit_retention
        self._timing = timing
        self._page = page
        self._clock = clock
        self._sleep = sleep

    async def run_once(self) -> float:
        """Remove all jobs past their retention; return the seconds until the next run."""
        async with self._database.statement() as connection:
            tenants = await list_tenants(connection)
        for tenant in tenants:
            for state in sorted(TERMINAL):
                await self._prune(tenant, state)
        await self._remove_leftovers()
        await self._prune_audit()
        return self._timing.prune

    async def _prune(self, tenant: str, state: JobState) -> None:
        jobs = events = 0
        unread: Counter[str] = Counter()
        since: datetime | None = None
        try:
            while True:
                start = self._clock()
                async with self._database.transaction() as connection:
                    pruned = await prune_jobs(
                        connection,
                        term=self._term,
                        tenant=tenant,
                        state=state,
                        older_than=self._retention.of(tenant, state),
                        held_for=self._subscription_retention,
                        limit=self._page,
                        since=since,
                    )
                if not pruned.jobs:
                    break
                self._gauges.pruned += pruned.jobs
                jobs, events = jobs + pruned.jobs, events + pruned.events
                unread.update(pruned.unread)
                since = pruned.end_time
                await self._pause_after(start)
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
        """Remove the remaining events of jobs that had too many events for one transaction."""
        while True:
            start = self._clock()
            async with self._database.statement() as connection:
                if not await remove_leftovers(connection, term=self._term):
                    break
            await self._pause_after(start)

    async def _prune_audit(self) -> None:
        """Remove the events of the audit log that are older than their retention."""
        async with self._database.statement() as connection:
            chains = await list_audit_chains(connection)
        for chain in chains:
            events = 0
            while True:
                start = self._clock()
                async with self._database.statement() as connection:
                    removed = await prune_audit(
                        connection,
                        term=self._term,
                        tenant=chain.tenant,
                        older_than=self._audit_retention,
                        limit=self._page,
                    )
                if not removed:
                    break
                events += removed
                await self._pause_after(start)
            if events:
                _log.info("audit_events_pruned", tenant=chain.tenant, events=events)

    async def _pause_after(self, start: float) -> None:
        """Wait as long as the transaction took.

        Therefore, pruning uses a connection for at most half of the time.
        """
        await self._sleep(max(self._timing.prune_rest, self._clock() - start))
