"""A gateway's subscription leases, and the watches that wait for one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

import structlog

from headrace_core.domain.errors import (
    HeadraceError,
    SubscriptionNotFound,
    SubscriptionTaken,
    Unavailable,
)
from headrace_core.domain.subscription import AcquiredSubscription, Holder
from headrace_core.runtime.loop import Loop, Wake
from headrace_core.store.sql.database import Database
from headrace_core.store.subscriptions import (
    SubscriptionKey,
    acquire_subscription,
    read_holders,
    release_watches,
    renew_watches,
)
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.streams.lease import Lease
from headrace_gateway.streams.timing import DEFAULT, Timing

_log = structlog.get_logger()

# Extra wait after the end of another gateway's lease, in seconds.
_LAPSE_MARGIN_S: Final = 0.01


class Leases(Loop):
    """Keeps the leases of all watches of a gateway, with one query for all leases.

    Each run renews acquired leases, releases the leases of ended watches, and reads the holders of
    all watched subscriptions. After a wake-up, the holder of a subscription may have changed.

    Args:
        database: stores the subscriptions.
        bus: announces acquired and released subscriptions.
        wake: the wake-ups of this loop.
        max_acquiring: the maximum number of watches that acquire at the same time. The limit keeps
            a connection free for renewals.
        timing: the durations of leases and waits.
    """

    name = "leases"
    topics = (Topic.SUBSCRIPTIONS,)
    pause = 0.01

    def __init__(
        self,
        *,
        database: Database,
        bus: WakeBus,
        wake: Wake,
        max_acquiring: int,
        timing: Timing = DEFAULT,
    ) -> None:
        self._database = database
        self._bus = bus
        self._wake = wake
        self._acquiring = asyncio.Semaphore(max_acquiring)
        self._timing = timing
        self._duration = timedelta(seconds=timing.lease)
        # Leases in the order in which their watches started, which is the order of their turns.
        self._open: dict[Lease, None] = {}
        # Leases of ended watches, and the time at which each lapses in the database.
        self._closed: dict[Lease, float] = {}
        self._renewal_due = 0.0
        self._all_released = asyncio.Event()
        self._all_released.set()
        self._end_error: HeadraceError | None = None
        self._clock = asyncio.get_running_loop().time

    async def end(self, error: HeadraceError) -> None:
        """End all watches and reject new ones; release all subscriptions while the loop runs."""
        self._end_error = error
        for lease in list(self._open):
            lease.fail(error)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.stop):
                await self._all_released.wait()

    @contextmanager
    def open_for_watch(self, *, tenant: str, name: str, consumer: str) -> Iterator[Lease]:
        """Yield the lease of a watch; it is released in the background after the block.

        Raises:
            ShuttingDown: the gateway is shutting down.
        """
        if self._end_error is not None:
            raise self._end_error
        lease = Lease(self, tenant=tenant, name=name, consumer=consumer)
        self._open[lease] = None
        self.run_soon()
        try:
            yield lease
        finally:
            self.close(lease)

    async def acquire(self, lease: Lease) -> tuple[AcquiredSubscription | None, float]:
        """Try to acquire a subscription.

        Returns:
            The acquired subscription, if it was free, and the end of the lease by the loop's clock.

        Raises:
            SubscriptionNotFound: no subscription has this name.
            Unavailable: PostgreSQL did not respond.
        """
        async with self._acquiring:
            if lease not in self._open:
                # The watch has ended.
                return None, 0.0
            # Computed before the statement, so the lease never ends later here than in PostgreSQL.
            until = self._clock() + self._timing.lease
            try:
                async with (
                    asyncio.timeout(self._timing.renew),
                    self._database.statement() as conn,
                ):
                    acquired = await acquire_subscription(
                        conn,
                        lease.watch,
                        consumer=lease.consumer,
                        lease=self._duration,
                        takes_over=lease.takes_over,
                    )
            except TimeoutError:
                raise Unavailable("postgresql") from None
        if acquired is not None:
            # Another gateway may have the watch that held the subscription before.
            self._bus.publish(Topic.SUBSCRIPTIONS)
            _log.info("subscription_acquired", subscription=lease.watch.name, epoch=acquired.epoch)
        return acquired, until

    def run_soon(self) -> None:
        """Run the loop at once."""
        self._wake.set()

    def close(self, lease: Lease) -> None:
        """Release a lease in the background; a second call has no effect."""
        if lease in self._open:
            del self._open[lease]
            self._closed[lease] = self._clock() + self._timing.lease
            self._all_released.clear()
            self.run_soon()

    async def run_once(self) -> float:
        """Release closed leases, renew acquired ones when due, and read the holders.

        Returns:
            Seconds until the next run without a wake-up.

        Raises:
            Unavailable: PostgreSQL did not respond.
            TimeoutError: PostgreSQL did not respond in time.
        """
        try:
            # By the time a later response arrives, the lease may have lapsed.
            async with asyncio.timeout(self._timing.renew):
                await self._release()
                if not self._open:
                    return self._timing.lease_interval[1]
                await self._renew()
                return await self._read_holders()
        finally:
            for lease in list(self._open):
                if lease.has_lapsed:
                    lease.fail(Unavailable("postgresql"))

    def on_outage(self) -> None:
        """End the standby watches, so that their clients try other gateways."""
        for lease in list(self._open):
            if lease.is_waiting:
                lease.fail(Unavailable("postgresql"))

    async def _release(self) -> None:
        now = self._clock()
        for lease, lapse in list(self._closed.items()):
            if not lease.has_tried or lapse < now:
                del self._closed[lease]
        if not self._closed:
            self._all_released.set()
        closed = [lease for lease in self._closed if not lease.is_acquiring]
        if not closed:
            return
        async with self._database.statement() as conn:
            released = await release_watches(conn, [lease.watch for lease in closed])
        for lease in closed:
            del self._closed[lease]
        if not self._closed:
            self._all_released.set()
        if released:
            self._bus.publish(Topic.SUBSCRIPTIONS)

    async def _renew(self) -> None:
        holding = [lease for lease in self._open if lease.acquired is not None]
        now = self._clock()
        if not holding or now < self._renewal_due:
            return
        async with self._database.statement() as conn:
            renewed = await renew_watches(
                conn,
                [lease.watch for lease in holding],
                lease=self._duration,
            )
        for lease in holding:
            if lease.watch.watch_id in renewed:
                lease.until = now + self._timing.lease
        self._renewal_due = now + self._timing.renew * random.uniform(0.8, 1.0)

    async def _read_holders(self) -> float:
        # The next run handles changes that happen during this query.
        holding = [(lease, lease.acquired) for lease in self._open if lease.acquired is not None]
        waiting = [lease for lease in self._open if lease.is_waiting]
        keys = {lease.key for lease in self._open}
        async with self._database.statement() as conn:
            holders = await read_holders(conn, keys)
        for lease, acquired in holding:
            holder = holders.get(lease.key)
            if holder is None or holder.id != acquired.id:
                lease.fail(SubscriptionNotFound(lease.watch.name))
            elif holder.watch_id != lease.watch.watch_id:
                lease.fail(SubscriptionTaken(lease.watch.name))
        return min(
            self._give_turns(waiting, holders),
            *(max(0.0, self._renewal_due - self._clock()) for _ in holding[:1]),
            random.uniform(*self._timing.lease_interval),
        )

    def _give_turns(
        self, waiting: Iterable[Lease], holders: Mapping[SubscriptionKey, Holder]
    ) -> float:
        """Give turns to waiting watches; return the seconds until the next lease lapses."""
        soonest = self._timing.lease_interval[1]
        given: set[SubscriptionKey] = set()
        for lease in waiting:
            if not lease.is_waiting:
                # The watch is using an earlier turn.
                continue
            holder = holders.get(lease.key)
            if holder is None:
                lease.fail(SubscriptionNotFound(lease.watch.name))
            elif holder.watch_id is None or holder.lease is None or holder.lease <= timedelta():
                if lease.key in given:
                    lease.stand_by()
                elif lease.give_turn():
                    given.add(lease.key)
            elif holder.consumer == lease.consumer:
                # A consumer's newer watch replaces its older watch.
                if lease.replaces(holder.watch_id):
                    lease.give_turn()
                else:
                    lease.fail(SubscriptionTaken(lease.watch.name))
            else:
                lease.stand_by()
                soonest = min(soonest, holder.lease.total_seconds() + _LAPSE_MARGIN_S)
        return soonest
