"""Who receives which subscription: what one gateway has acquired, and what waits for its turn."""

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
from headrace_core.domain.subscription import Acquired, Holder
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.store.subscriptions import (
    SubscriptionKey,
    acquire_subscription,
    read_holders,
    release_watches,
    renew_watches,
)
from headrace_core.wake import Topic, WakeBus, WakeSubscription
from headrace_gateway.streams.lease import Lease

_log = structlog.get_logger()

# For how long a subscription is acquired, and how often that is renewed, in seconds.
_LEASE: Final = 15.0
_BEAT: Final = 5.0

# Seconds between two looks: without a wake-up, and at least.
_INTERVAL: Final = (0.7, 1.0)
_PAUSE: Final = 0.01
# A lease has lapsed only behind its end.
_BEHIND: Final = 0.01

# Seconds between two attempts while PostgreSQL is gone, and how long those stay that wait for their
# turn. Then they are sent to another gateway, which may see more than this one.
_RETRY: Final = (0.1, 0.4)
_PATIENCE: Final = 10.0

# How long the end may take, in seconds: nothing is lost but time when it is cut off.
_END: Final = 3.0


class Leases:
    """The leases of all watches of a gateway, kept by one loop with one query for all of them.

    It renews what was acquired, lets go of what is not watched any more, and sees who has the
    others. A wake-up only says that there is something to see.

    Args:
        database: where subscriptions are.
        wake: for subscriptions that were acquired, released or deleted.
        bus: announces these.
        askers: how many watches try to acquire at the same time. However many come at once, the
            renewals find a connection.
    """

    def __init__(
        self, *, database: Database, wake: WakeSubscription, bus: WakeBus, askers: int
    ) -> None:
        self._database = database
        self._wake = wake
        self._bus = bus
        self._askers = asyncio.Semaphore(askers)
        # In the order in which they were opened, which is that of their turns.
        self._open: dict[Lease, None] = {}
        # Those that are not watched any more, and until when somebody could still wait for them.
        self._closed: dict[Lease, float] = {}
        self._beat_due = 0.0
        self._nothing_closed = asyncio.Event()
        self._nothing_closed.set()
        self._something = asyncio.Event()
        self._ending: HeadraceError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._clock = asyncio.get_running_loop().time

    async def start(self) -> None:
        """Begins to keep them, in the background."""
        self._tasks = [
            asyncio.create_task(self._run(), name="leases"),
            asyncio.create_task(self._hear(), name="leases-wake-ups"),
        ]

    async def stop(self, error: HeadraceError) -> None:
        """Ends all watches, and those that are yet to come, and lets go of all subscriptions."""
        self._ending = error
        for lease in list(self._open):
            lease.fail(error)
        with suppress(TimeoutError):
            async with asyncio.timeout(_END):
                await self._nothing_closed.wait()
        await end_tasks(*self._tasks, within=_END)

    @contextmanager
    def of_watch(self, *, tenant: str, name: str, consumer: str) -> Iterator[Lease]:
        """The lease of a watch, which is let go of at the end of the block, in the background.

        Raises:
            ShuttingDown: the gateway shuts down.
        """
        if self._ending is not None:
            raise self._ending
        lease = Lease(self, tenant=tenant, name=name, consumer=consumer)
        self._open[lease] = None
        self.look()
        try:
            yield lease
        finally:
            self.close(lease)

    async def acquire(self, lease: Lease) -> tuple[Acquired | None, float]:
        """Acquires a subscription, if it can be had; and tells until when, by the loop's clock.

        Raises:
            SubscriptionNotFound: there is none of this name.
            Unavailable: PostgreSQL cannot be asked.
        """
        async with self._askers:
            if lease not in self._open:
                # Nobody watches any more.
                return None, 0.0
            # The lease runs from before the database began it: a late answer makes it shorter here.
            until = self._clock() + _LEASE
            try:
                async with asyncio.timeout(_BEAT), self._database.statement() as conn:
                    acquired = await acquire_subscription(
                        conn,
                        lease.watch,
                        consumer=lease.consumer,
                        lease=timedelta(seconds=_LEASE),
                        takes_over=lease.takes_over,
                    )
            except TimeoutError:
                raise Unavailable("postgresql") from None
        if acquired is not None:
            # Who had it before may be another gateway's watch.
            self._bus.publish(Topic.SUBSCRIPTIONS)
            _log.info("subscription_acquired", subscription=lease.watch.name, epoch=acquired.epoch)
        return acquired, until

    def look(self) -> None:
        """Has the loop look at once."""
        self._something.set()

    def close(self, lease: Lease) -> None:
        """Lets go of a lease, in the background; a second time changes nothing."""
        if lease in self._open:
            del self._open[lease]
            self._closed[lease] = self._clock() + _LEASE
            self._nothing_closed.clear()
            self.look()

    async def run_once(self) -> float:
        """Lets go of what was closed, renews what is due, and sees who has the others.

        Returns:
            After how many seconds it should look again, rung or not.

        Raises:
            Unavailable: PostgreSQL cannot be asked. Nothing is lost but time.
        """
        await self._release()
        if not self._open:
            return _INTERVAL[1]
        await self._renew()
        return await self._see()

    async def _release(self) -> None:
        now = self._clock()
        for lease, lapse in list(self._closed.items()):
            if not lease.was_asked_for or lapse < now:
                del self._closed[lease]
        if not self._closed:
            self._nothing_closed.set()
        closed = [lease for lease in self._closed if not lease.is_acquiring]
        if not closed:
            return
        async with self._database.statement() as conn:
            released = await release_watches(conn, [lease.watch for lease in closed])
        for lease in closed:
            del self._closed[lease]
        if not self._closed:
            self._nothing_closed.set()
        if released:
            self._bus.publish(Topic.SUBSCRIPTIONS)

    async def _renew(self) -> None:
        holding = [lease for lease in self._open if lease.acquired is not None]
        now = self._clock()
        if not holding or now < self._beat_due:
            return
        async with self._database.statement() as conn:
            renewed = await renew_watches(
                conn,
                [lease.watch for lease in holding],
                lease=timedelta(seconds=_LEASE),
            )
        for lease in holding:
            if lease.watch.watch_id in renewed:
                lease.until = now + _LEASE
        self._beat_due = now + _BEAT * random.uniform(0.8, 1.0)

    async def _see(self) -> float:
        # What changes while PostgreSQL answers is a matter of the next look.
        holding = [(lease, lease.acquired) for lease in self._open if lease.acquired is not None]
        waiting = [lease for lease in self._open if lease.waits]
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
            self._take_turns(waiting, holders),
            *(max(0.0, self._beat_due - self._clock()) for _ in holding[:1]),
            random.uniform(*_INTERVAL),
        )

    def _take_turns(
        self, waiting: Iterable[Lease], holders: Mapping[SubscriptionKey, Holder]
    ) -> float:
        """Gives turns; returns after how many seconds the next lease lapses that is waited for."""
        soonest = _INTERVAL[1]
        given: set[SubscriptionKey] = set()
        for lease in waiting:
            if not lease.waits:
                # It has tried meanwhile.
                continue
            holder = holders.get(lease.key)
            if holder is None:
                lease.fail(SubscriptionNotFound(lease.watch.name))
            elif holder.watch_id is None or holder.lease is None or holder.lease <= timedelta():
                if lease.key in given:
                    lease.refuse()
                elif lease.give_turn():
                    given.add(lease.key)
            elif holder.consumer == lease.consumer:
                # Of two watches of a consumer the newer one is the one that it reads.
                if lease.goes_before(holder.watch_id):
                    lease.give_turn()
                else:
                    lease.fail(SubscriptionTaken(lease.watch.name))
            else:
                lease.refuse()
                soonest = min(soonest, holder.lease.total_seconds() + _BEHIND)
        return soonest

    async def _run(self) -> None:
        last_look, failing = self._clock(), False
        while True:
            self._something.clear()
            try:
                # What takes longer could tell of a lease that has lapsed meanwhile.
                async with asyncio.timeout(_BEAT):
                    wait = await self.run_once()
            except Exception as error:  # noqa: BLE001 - without the loop every lease lapses
                if not failing:
                    _log.warning("leases_failed", exc_info=_unexpected(error))
                failing = True
                self._fail_lapsed()
                if self._clock() - last_look > _PATIENCE:
                    self._fail_waiting()
                await asyncio.sleep(random.uniform(*_RETRY))
                continue
            if failing:
                _log.info("leases_resumed", gone_s=round(self._clock() - last_look, 1))
            last_look, failing = self._clock(), False
            self._fail_lapsed()
            await asyncio.sleep(_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._something.wait()

    async def _hear(self) -> None:
        while True:
            if await self._wake.wait(60):
                self.look()

    def _fail_lapsed(self) -> None:
        for lease in list(self._open):
            if lease.has_lapsed:
                lease.fail(Unavailable("postgresql"))

    def _fail_waiting(self) -> None:
        for lease in list(self._open):
            if lease.waits:
                lease.fail(Unavailable("postgresql"))


def _unexpected(error: Exception) -> Exception | None:
    """An error that should stand in the log in full."""
    return None if isinstance(error, Unavailable | TimeoutError) else error
