"""Measure the usage of tenants with quotas."""

from __future__ import annotations

from typing import Final

import structlog

from headrace_core.domain.tenant import Quota
from headrace_core.runtime.loop import Loop
from headrace_core.store.access.tenants import read_tenant_rules
from headrace_core.store.sql.database import Database
from headrace_core.store.usage import (
    correct_payload_bytes,
    count_payload_bytes,
    metered_tenants,
    read_usage,
    take_recount,
)
from headrace_core.wake import Topic
from headrace_scheduler.metrics import Gauges, TenantUsage
from headrace_scheduler.timing import DEFAULT, Timing

_log = structlog.get_logger()

# Time limit of the count of all payloads of a tenant, in seconds.
_COUNT_TIMEOUT: Final = 300.0


class Meter(Loop):
    """Report the usage of tenants as metrics, and count their stored payloads.

    Payloads are counted after a tenant receives its first counted quota, and once a day to correct
    mistakes. Between two counts, submits and pruning keep the number correct.

    Args:
        database: the store.
        term: the term of the scheduler.
        gauges: receives the usage.
        timing: the interval of the loop.
    """

    name = "meter"
    topics = (Topic.ACCESS,)

    def __init__(
        self, *, database: Database, term: int, gauges: Gauges, timing: Timing = DEFAULT
    ) -> None:
        self._database = database
        self._term = term
        self._gauges = gauges
        self._timing = timing

    async def run_once(self) -> float:
        """Count due payloads and read the usage; return the seconds until the next run."""
        while (tenant := await self._take_recount()) is not None:
            await self._recount(tenant)
        async with self._database.statement() as connection:
            tenants = await metered_tenants(connection)
            rules = await read_tenant_rules(connection) if tenants else {}
            usage = []
            for tenant in tenants:
                if tenant not in rules:
                    continue
                used = await read_usage(connection, tenant=tenant)
                numbers = {
                    Quota.WAITING_JOBS: used.waiting_jobs,
                    Quota.PAYLOAD_BYTES: used.payload_bytes or 0,
                    Quota.JOBS_PER_DAY: used.jobs_today or 0,
                }
                usage += [
                    TenantUsage(tenant, quota, used=number, limit=rules[tenant].quotas[quota])
                    for quota, number in numbers.items()
                    if quota in rules[tenant].quotas
                ]
        self._gauges.usage = tuple(usage)
        return self._timing.tenants

    async def _take_recount(self) -> str | None:
        async with self._database.statement() as connection:
            return await take_recount(connection, term=self._term)

    async def _recount(self, tenant: str) -> None:
        async with self._database.snapshot(statement_timeout=_COUNT_TIMEOUT) as connection:
            difference = await count_payload_bytes(connection, tenant=tenant)
        async with self._database.statement() as connection:
            await correct_payload_bytes(connection, tenant=tenant, difference=difference)
        _log.info("payloads_counted", tenant=tenant, corrected_by=difference)
