"""The lease of one watch on a subscription."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from headrace_core.domain.errors import HeadraceError, Unavailable
from headrace_core.domain.ids import uuid7
from headrace_core.domain.subscription import AcquiredSubscription, SubscriptionWatch, WatchId
from headrace_core.store.subscriptions import SubscriptionKey


class LeaseKeeper(Protocol):
    """Acquires and releases the leases of a gateway."""

    async def acquire(self, lease: Lease) -> tuple[AcquiredSubscription | None, float]:
        """Try to acquire the subscription.

        Returns:
            The acquired subscription or None, and the end of the lease by the loop's clock.
        """

    def close(self, lease: Lease) -> None:
        """Release a lease in the background."""

    def run_soon(self) -> None:
        """Start the next run, which reads the holders of the subscriptions."""


class Lease:
    """The lease of a watch on its subscription: acquired, or waiting for a turn to acquire it.

    Args:
        keeper: acquires and releases the subscription.
        tenant: the tenant of the subscription.
        name: the name of the subscription.
        consumer: the consumer of the watch.
    """

    def __init__(self, keeper: LeaseKeeper, *, tenant: str, name: str, consumer: str) -> None:
        self.watch = SubscriptionWatch(tenant=tenant, name=name, watch_id=WatchId(uuid7()))
        self.key: SubscriptionKey = (tenant, name)
        self.consumer = consumer
        # The acquired subscription, and the end of the lease by the loop's clock.
        self.acquired: AcquiredSubscription | None = None
        self.until = 0.0
        self._keeper = keeper
        self._acquiring: asyncio.Task[AcquiredSubscription | None] | None = None
        self._has_tried = False
        # True until the first run of the keeper that includes this lease.
        self._is_new = True
        # True if this watch may replace any watch of its consumer. A standby replaces only older
        # watches.
        self.takes_over = True
        self._has_turn = False
        self._changed = asyncio.Event()
        self._error: HeadraceError | None = None
        self._failure_callback: Callable[[HeadraceError], None] | None = None

    @property
    def is_waiting(self) -> bool:
        """True if the watch waits for its turn."""
        return self.acquired is None and not self.is_acquiring and self._error is None

    @property
    def is_acquiring(self) -> bool:
        """True while a statement tries to acquire the subscription."""
        return self._acquiring is not None

    @property
    def has_tried(self) -> bool:
        """True if the watch has tried to acquire, so PostgreSQL may contain its lease."""
        return self._has_tried

    async def acquire(self) -> AcquiredSubscription | None:
        """Try to acquire the subscription.

        Returns:
            The acquired subscription; None if another watch holds it.

        Raises:
            SubscriptionNotFound: no subscription has this name.
            Unavailable: PostgreSQL did not respond.
        """
        self.check()
        # Cancelling the caller does not cancel the task, because its result must be released.
        self._acquiring = asyncio.create_task(self._acquire())
        self._acquiring.add_done_callback(self._on_acquire_done)
        return await asyncio.shield(self._acquiring)

    async def wait_for_turn(self, patience: float | None) -> bool:
        """Wait for a turn to acquire the subscription.

        Args:
            patience: the longest wait in seconds; None to wait until the next run of the keeper.

        Returns:
            True if it may try to acquire.

        Raises:
            HeadraceError: ends the watch.
        """
        self.check()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._changed.wait()
        self.check()
        has_turn, self._has_turn = self._has_turn, False
        self._changed.clear()
        return has_turn

    def check(self) -> None:
        """Raise the error that ends the watch, if any.

        Raises:
            SubscriptionTaken: another watch has acquired the subscription.
            SubscriptionNotFound: the subscription was deleted.
            Unavailable: the lease lapsed, so another watch may hold the subscription.
            ShuttingDown: the gateway is shutting down.
        """
        if self._error is not None:
            raise self._error
        if self.has_lapsed:
            raise Unavailable("postgresql")

    @property
    def has_lapsed(self) -> bool:
        """True if the lease ended without a renewal."""
        return self.acquired is not None and asyncio.get_running_loop().time() >= self.until

    def on_failure(self, callback: Callable[[HeadraceError], None]) -> None:
        """Call `callback` with the error that ends the watch."""
        self._failure_callback = callback
        if self._error is not None:
            callback(self._error)

    def give_turn(self) -> bool:
        """Give the watch a turn to acquire; return False if it has not used its last turn."""
        is_new_turn = not self._has_turn
        self.takes_over = self.takes_over and self._is_new
        self._is_new, self._has_turn = False, True
        self._changed.set()
        return is_new_turn

    def stand_by(self) -> None:
        """Make the watch a standby."""
        self.takes_over = False
        if self._is_new:
            self._is_new = False
            self._changed.set()

    def replaces(self, watch_id: WatchId) -> bool:
        """Return whether this watch replaces `watch_id`, a watch of the same consumer."""
        # The clocks of two gateways may differ, so a new watch always counts as newer.
        return self._is_new or watch_id < self.watch.watch_id

    def fail(self, error: HeadraceError) -> None:
        """End the watch with an error and release the subscription; later errors are ignored."""
        if self._error is None:
            self._error = error
            self._keeper.close(self)
            self._changed.set()
            if self._failure_callback is not None:
                self._failure_callback(error)

    async def _acquire(self) -> AcquiredSubscription | None:
        self._has_tried = True
        acquired, self.until = await self._keeper.acquire(self)
        self.acquired = acquired
        return acquired

    def _on_acquire_done(self, task: asyncio.Task[AcquiredSubscription | None]) -> None:
        self._acquiring = None
        if not task.cancelled():
            # Retrieve the exception. If the watch has ended, asyncio would log it otherwise.
            task.exception()
        self._keeper.run_soon()
