"""The registrations of live workers: handlers, pools and queues, cached for one gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.pool import Pool, ServedQueues
from headrace_core.runtime.loop import Loop
from headrace_core.store.jobs.waiting import live_pools, served_queues
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import live_handlers
from headrace_core.wake import Topic
from headrace_gateway.api.payload_schema import KnownHandler

# Age at which handlers are read again without a wake-up, in seconds.
_MAX_HANDLER_AGE: Final = 2.0
# Age at which pools are read again, in seconds. Their numbers of running attempts change often.
_MAX_POOL_AGE: Final = 1.0
# Time without a submit after which the handlers of a tenant are dropped, in seconds.
_TENANT_IDLE: Final = 60.0
# The maximum number of queues that stay known after their jobs are pruned.
_MAX_QUEUES: Final = 10_000


@dataclass(slots=True)
class _Tenant:
    handlers: Mapping[str, KnownHandler]
    last_used: float


class Registrations(Loop):
    """Caches registrations; reads them again when a worker starts, drains or stops, and regularly.

    Only registrations in use are read: the handlers of tenants that submit jobs, and pools after a
    hand-off.

    Args:
        database: stores the registrations.
        max_age: time between two runs without a wake-up, in seconds.
        clock: returns the monotonic time in seconds.
    """

    name = "registrations"
    topics = (Topic.WORKERS,)

    def __init__(
        self,
        *,
        database: Database,
        max_age: float = _MAX_HANDLER_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._max_age = max_age
        self._clock = clock
        self.first_wait = max_age
        self._tenants: dict[str, _Tenant] = {}
        self._pools: Sequence[Pool] = ()
        self._pools_read = -inf
        self._pools_used = False
        self._reading_pools = asyncio.Lock()
        self._known_queues: frozenset[str] = frozenset()

    async def handlers(self, tenant: str) -> Mapping[str, KnownHandler]:
        """Return a tenant's handlers by type, read at most about two seconds ago.

        Raises:
            Unavailable: the handlers are not cached and PostgreSQL did not respond.
        """
        known = self._tenants.get(tenant)
        if known is None:
            async with self._database.statement() as conn:
                handlers = await _read_handlers(conn, tenant)
            known = self._tenants[tenant] = _Tenant(handlers, 0.0)
        known.last_used = self._clock()
        return known.handlers

    async def pools(self) -> Sequence[Pool]:
        """Return the live pools with their running attempts, read at most a second ago.

        Raises:
            Unavailable: PostgreSQL did not respond.
        """
        self._pools_used = True
        if self._clock() - self._pools_read > _MAX_POOL_AGE:
            async with self._reading_pools:
                # Another caller may have read the pools during the wait for the lock.
                if self._clock() - self._pools_read > _MAX_POOL_AGE:
                    async with self._database.statement() as conn:
                        await self._read_pools(conn)
        return self._pools

    async def queues(self) -> ServedQueues:
        """Return the known queues and the served queues of the default tenant.

        Health probes cannot select a tenant. A queue stays known after its jobs are pruned.

        Raises:
            Unavailable: PostgreSQL did not respond.
        """
        async with self._database.statement() as conn:
            served = await served_queues(conn, tenant=DEFAULT_TENANT)
        if len(self._known_queues) < _MAX_QUEUES:
            self._known_queues |= served.known
        return replace(served, known=served.known | self._known_queues)

    async def run_once(self) -> float:
        """Read the handlers and pools in use again.

        After a failure, the last known handlers and pools stay in use.

        Returns:
            Seconds until the next run without a wake-up.

        Raises:
            Unavailable: PostgreSQL did not respond.
        """
        idle = self._clock() - _TENANT_IDLE
        for tenant, known in list(self._tenants.items()):
            if known.last_used < idle:
                del self._tenants[tenant]
        if self._tenants or self._pools_used:
            async with self._database.statement() as conn:
                for tenant, known in list(self._tenants.items()):
                    known.handlers = await _read_handlers(conn, tenant)
                if self._pools_used:
                    self._pools_used = False
                    await self._read_pools(conn)
        return self._max_age

    async def _read_pools(self, conn: Connection) -> None:
        started = self._clock()
        self._pools = await live_pools(conn)
        self._pools_read = started


async def _read_handlers(conn: Connection, tenant: str) -> Mapping[str, KnownHandler]:
    return {
        handler.spec.type: KnownHandler(
            handler.spec.type, handler.spec.queue, handler.spec.payload_schema
        )
        for handler in await live_handlers(conn, tenant=tenant)
    }
