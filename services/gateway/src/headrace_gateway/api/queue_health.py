"""`queue/NAME` in grpc.health.v1: SERVING while the queue is known and a live worker serves it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import ServedQueues, served_queues
from headrace_core.wake import WakeSubscription
from headrace_gateway.api.names import is_name
from headrace_health import Lookup

_PREFIX: Final = "queue/"
_MOST_REMEMBERED: Final = 10_000


def queue_health(*, database: Database, wake: WakeSubscription) -> Lookup:
    """The health of the queues.

    Args:
        database: where workers are registered.
        wake: for changes of registrations, of this caller's own.
    """
    remembered: frozenset[str] = frozenset()

    async def read() -> ServedQueues:
        nonlocal remembered
        async with database.statement() as conn:
            # A probe says nothing of its tenant.
            served = await served_queues(conn, tenant=DEFAULT_TENANT)
        # A reading finds the queues of recent jobs alone. One that was known stays known.
        if len(remembered) < _MOST_REMEMBERED:
            remembered |= served.known
        return replace(served, known=served.known | remembered)

    return Lookup(prefix=_PREFIX, valid=is_name, read=read, wait=wake.wait)
