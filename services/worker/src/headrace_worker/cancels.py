"""Cancellation of running attempts at the request of clients."""

from __future__ import annotations

from headrace_core.runtime.loop import Loop
from headrace_core.store.jobs.cancel import cancel_requests
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic
from headrace_worker.attempt.execution import StopReason
from headrace_worker.attempt.slots import Slots
from headrace_worker.lease import Lease


class Cancels(Loop):
    """Stop the attempts whose cancellation was requested.

    Args:
        database: the database.
        lease: the lease of the worker.
        slots: the attempts in flight.
        interval: the maximum time between two queries, in seconds. Wake-ups can be lost.
    """

    name = "cancels"
    topics = (Topic.CANCELS,)
    # Cancellations are handled immediately, not in batches.
    pause = 0.0

    def __init__(
        self,
        *,
        database: Database,
        lease: Lease,
        slots: Slots,
        interval: float,
    ) -> None:
        self._database = database
        self._lease = lease
        self._slots = slots
        self._interval = interval

    async def run_once(self) -> float:
        """Stop the attempts that clients cancelled; return the seconds until the next query."""
        if self._slots:
            async with self._database.statement() as connection:
                requests = await cancel_requests(connection, worker_id=self._lease.worker_id)
            self._slots.stop(requests, StopReason.CANCEL)
        return self._interval
