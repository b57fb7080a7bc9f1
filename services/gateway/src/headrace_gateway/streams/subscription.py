"""A stream of a subscription."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from headrace_core.domain.subscription import AcquiredSubscription
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.leases import Leases
from headrace_gateway.streams.many import FilterStream, Mark, WatchPage
from headrace_gateway.streams.messages import next_mark


class SubscriptionStream:
    """Waits on standby until it has acquired the subscription, then follows the jobs.

    The stream always releases the subscription when it ends. Responses may still be in flight when
    another watch takes over; the epoch in their cursors makes later acknowledgements fail.

    Args:
        tenant: the tenant of the subscription.
        name: the name of the subscription.
        consumer: the consumer of the watch.
        leases: acquire and release the subscription.
        open_stream: returns a stream of an acquired subscription's events.
        gauges: counts standbys and receivers.
        idle: longest time without a message while on standby, in seconds.
    """

    def __init__(
        self,
        *,
        tenant: str,
        name: str,
        consumer: str,
        leases: Leases,
        open_stream: Callable[[AcquiredSubscription], FilterStream],
        gauges: Gauges,
        idle: float,
    ) -> None:
        self._tenant = tenant
        self._name = name
        self._consumer = consumer
        self._leases = leases
        self._open_stream = open_stream
        self._gauges = gauges
        self._idle = idle
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> AsyncGenerator[WatchPage, None]:
        """Yield pages to send, until an error.

        Raises:
            SubscriptionNotFound: no subscription has this name, or it was deleted.
            SubscriptionTaken: another consumer or a newer watch of this consumer has taken over.
            CursorExpired: unacknowledged events were pruned.
            Unavailable: PostgreSQL cannot be read, or the lease lapsed during an outage.
            ShuttingDown: the gateway is shutting down.
        """
        with self._leases.open_for_watch(
            tenant=self._tenant, name=self._name, consumer=self._consumer
        ) as lease:
            acquired: AcquiredSubscription | None = None
            mark_due = self._clock()
            self._gauges.standby_streams += 1
            try:
                has_turn = await lease.wait_for_turn(None)
                while not has_turn or (acquired := await lease.acquire()) is None:
                    if self._clock() >= mark_due:
                        yield WatchPage(events=(), cursor="", mark=Mark.STANDBY)
                        mark_due = next_mark(self._clock(), self._idle)
                    has_turn = await lease.wait_for_turn(max(0.0, mark_due - self._clock()))
            finally:
                self._gauges.standby_streams -= 1
            stream = self._open_stream(acquired)
            lease.on_failure(stream.fail)
            self._gauges.subscription_streams += 1
            try:
                async with aclosing(stream.run()) as pages:
                    async for page in pages:
                        lease.check()
                        yield page
            finally:
                self._gauges.subscription_streams -= 1
