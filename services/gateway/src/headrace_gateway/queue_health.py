"""`queue/NAME` in grpc.health.v1: SERVING while a live worker takes jobs from that queue."""

from __future__ import annotations

from typing import Final

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.store.database import Database
from headrace_core.store.workers import ServedQueues, served_queues
from headrace_core.wake import Listener
from headrace_gateway.names import is_name
from headrace_health import Lookup

_PREFIX: Final = "queue/"


def queue_health(*, database: Database, listener: Listener) -> Lookup:
    """The health of the queues.

    Args:
        database: where workers are registered.
        listener: rings when a registration changes. Nobody else may wait for it.
    """

    async def read() -> ServedQueues:
        async with database.statement() as conn:
            # A probe says nothing of its tenant.
            return await served_queues(conn, tenant=DEFAULT_TENANT)

    return Lookup(prefix=_PREFIX, valid=is_name, read=read, wait=listener.wait)
