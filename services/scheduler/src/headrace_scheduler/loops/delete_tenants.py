"""Remove the rows of tenants that are being deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from headrace_core.runtime.loop import Loop
from headrace_core.store.access.deletion import (
    REMOVED_TABLES,
    DeletingTenant,
    count_tenant_jobs,
    deleting_tenants,
    finish_deletion,
    note_jobs_to_remove,
    remove_tenant_jobs,
    remove_tenant_rows,
)
from headrace_core.store.jobs.cancel import request_cancellations
from headrace_core.store.jobs.prune import remove_leftovers
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.timing import DEFAULT, Timing

_log = structlog.get_logger()

# Jobs, and rows of other tables, per transaction.
_PAGE: Final = 500
# Time limit of the count of the jobs at the start, in seconds.
_COUNT_TIMEOUT: Final = 300.0


class DeleteTenants(Loop):
    """Delete tenants, page by page.

    A run cancels the running jobs of a tenant, removes its other jobs, and then its other rows. The
    tenant itself is removed when no job is left. Until then each run continues where the last one
    stopped, in this term or in another.

    Args:
        database: the store.
        bus: announces cancellations.
        term: the term of the scheduler.
        gauges: counts removed jobs.
        timing: the intervals, and the limits of a deletion.
        page: jobs or rows per transaction.
        clock: monotonic seconds.
        sleep: waits for the given seconds.
    """

    name = "delete_tenants"
    topics = (Topic.ACCESS,)

    def __init__(
        self,
        *,
        database: Database,
        bus: WakeBus,
        term: int,
        gauges: Gauges,
        timing: Timing = DEFAULT,
        page: int = _PAGE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._bus = bus
        self._term = term
        self._gauges = gauges
        self._timing = timing
        self._page = page
        self._clock = clock
        self._sleep = sleep

    async def run_once(self) -> float:
        """Continue each deletion; return the seconds until the next run."""
        async with self._database.statement() as connection:
            tenants = await deleting_tenants(connection)
        remaining = 0
        for tenant in tenants:
            remaining += not await self._continue(tenant)
        return self._timing.deletion if remaining else self._timing.tenants

    async def _continue(self, tenant: DeletingTenant) -> bool:
        """Remove rows of a tenant; return whether nothing is left."""
        if not tenant.counted:
            await self._count(tenant.name)
        await self._cancel_running(tenant.name)
        patient = tenant.age < timedelta(seconds=self._timing.deletion_patience)
        await self._remove_jobs(tenant.name, include_running=not patient)
        for table in REMOVED_TABLES:
            await self._remove_rows(tenant.name, table)
        async with self._database.statement() as connection:
            finished = await finish_deletion(
                connection,
                term=self._term,
                tenant=tenant.name,
                settled_after=timedelta(seconds=self._timing.deletion_settled),
            )
        if finished:
            await self._remove_leftovers()
            _log.info("tenant_deleted", tenant=tenant.name)
        return finished

    async def _count(self, tenant: str) -> None:
        async with self._database.snapshot(statement_timeout=_COUNT_TIMEOUT) as connection:
            jobs = await count_tenant_jobs(connection, tenant=tenant)
        async with self._database.statement() as connection:
            await note_jobs_to_remove(connection, tenant=tenant, jobs=jobs)

    async def _cancel_running(self, tenant: str) -> None:
        while True:
            async with self._database.statement() as connection:
                requested = await request_cancellations(
                    connection, term=self._term, tenant=tenant, limit=self._page
                )
            if requested:
                self._bus.publish(Topic.CANCELS, Topic.EVENTS)
            if requested < self._page:
                return

    async def _remove_jobs(self, tenant: str, *, include_running: bool) -> None:
        after: UUID | None = None
        while True:
            start = self._clock()
            async with self._database.transaction() as connection:
                removed = await remove_tenant_jobs(
                    connection,
                    term=self._term,
                    tenant=tenant,
                    limit=self._page,
                    after=after,
                    include_running=include_running,
                )
            if not removed.jobs:
                return
            after = removed.last
            self._gauges.deleted += removed.jobs
            await self._pause_after(start)

    async def _remove_rows(self, tenant: str, table: str) -> None:
        while True:
            start = self._clock()
            async with self._database.statement() as connection:
                removed = await remove_tenant_rows(
                    connection, term=self._term, tenant=tenant, table=table, limit=self._page
                )
            if removed < self._page:
                return
            await self._pause_after(start)

    async def _remove_leftovers(self) -> None:
        """Remove the remaining events of jobs that had too many events for one transaction."""
        while True:
            start = self._clock()
            async with self._database.statement() as connection:
                if not await remove_leftovers(connection, term=self._term):
                    return
            await self._pause_after(start)

    async def _pause_after(self, start: float) -> None:
        """Wait as long as the transaction took, so that a deletion leaves room for other work."""
        await self._sleep(max(self._timing.prune_rest, self._clock() - start))
