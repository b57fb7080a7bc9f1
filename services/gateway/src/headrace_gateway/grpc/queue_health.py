"""`queue/NAME` in grpc.health.v1: SERVING while the queue is known and a live worker serves it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.store.jobs.waiting import ServedQueues, served_queues
from headrace_core.store.sql.database import Database
from headrace_core.wake import WakeSubscription
from headrace_gateway.api.names import is_name
from headrace_health import Lookup

_PREFIX: Final = "queue/"
_MOST_REMEMBERED: Final = 10_000


def queue_health(*, database: Database, wake: WakeSubscription) -> Lookup:
    """Return the health lookup of the queues.

    Args:
        database: the store of the registrations.
        wake: receives changes of registrations, for this lookup alone.
    """
    remembered: frozenset[str] = frozenset()

    async def read() -> ServedQueues:
        nonlocal remembered
        async with database.statement() as conn:
            # A health probe names no tenant.
            served = await served_queues(conn, tenant=DEFAULT_TENANT)
        # The statement finds only queues of recent jobs. Known queues stay known.
        if len(remembered) < _MOST_REMEMBERED:
            remembered |= served.known
        return replace(served, known=served.known | remembered)

    return Lookup(prefix=_PREFIX, valid=is_name, read=read, wait=wake.wait)
