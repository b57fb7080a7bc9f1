"""One watch's claim to a subscription."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from headrace_core.domain.errors import HeadraceError, Unavailable
from headrace_core.domain.ids import uuid7
from headrace_core.domain.subscription import Acquired, SubscriptionWatch, WatchId
from headrace_core.store.subscriptions import SubscriptionKey


class Keeper(Protocol):
    """Who keeps the leases of a gateway."""

    async def acquire(self, lease: Lease) -> tuple[Acquired | None, float]:
        """Acquires the subscription, if it can be had; and tells until when."""

    def close(self, lease: Lease) -> None:
        """Lets go of a lease, in the background."""

    def look(self) -> None:
        """Looks soon who has what."""


class Lease:
    """A watch's claim to its subscription: it has acquired it, or waits for its turn.

    Args:
        keeper: acquires it and lets go of it.
        tenant: whose subscription it is.
        name: the subscription.
        consumer: who watches.
    """

    def __init__(self, keeper: Keeper, *, tenant: str, name: str, consumer: str) -> None:
        self.watch = SubscriptionWatch(tenant=tenant, name=name, watch_id=WatchId(uuid7()))
        self.key: SubscriptionKey = (tenant, name)
        self.consumer = consumer
        # What it has acquired; and until when, by the loop's clock, nobody else can have it.
        self.acquired: Acquired | None = None
        self.until = 0.0
        self._keeper = keeper
        self._acquiring: asyncio.Task[Acquired | None] | None = None
        self._asked = False
        # Whether anybody has looked for it yet, and what that has brought.
        self._is_new = True
        # From any watch of its consumer; once it has stood by from an older one alone.
        self.takes_over = True
        self._has_turn = False
        self._news = asyncio.Event()
        self._error: HeadraceError | None = None
        self._failed: Callable[[HeadraceError], None] | None = None

    @property
    def waits(self) -> bool:
        """Whether it waits for its turn."""
        return self.acquired is None and not self.is_acquiring and self._error is None

    @property
    def is_acquiring(self) -> bool:
        """Whether it is about to acquire the subscription."""
        return self._acquiring is not None

    @property
    def was_asked_for(self) -> bool:
        """Whether PostgreSQL may know of it."""
        return self._asked

    async def acquire(self) -> Acquired | None:
        """Acquires the subscription, if it can be had.

        Raises:
            SubscriptionNotFound: there is none of this name.
            Unavailable: PostgreSQL cannot be asked.
        """
        self.check()
        # Whoever gives up on it does not cut it off: what it acquires has to be let go of then.
        self._acquiring = asyncio.create_task(self._acquire())
        self._acquiring.add_done_callback(self._has_answer)
        return await asyncio.shield(self._acquiring)

    async def turn(self, patience: float | None) -> bool:
        """Waits until it may try to acquire the subscription.

        Args:
            patience: seconds after which it returns in any case; None: it waits for the next look.

        Returns:
            Whether it may try.

        Raises:
            HeadraceError: what the watch shall end with.
        """
        self.check()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._news.wait()
        self.check()
        has_turn, self._has_turn = self._has_turn, False
        self._news.clear()
        return has_turn

    def check(self) -> None:
        """Raises what the watch shall end with, if there is something.

        Raises:
            SubscriptionTaken: somebody else has acquired the subscription.
            SubscriptionNotFound: it was deleted.
            Unavailable: it could not be renewed: somebody else may have it.
            ShuttingDown: the gateway shuts down.
        """
        if self._error is not None:
            raise self._error
        if self.has_lapsed:
            raise Unavailable("postgresql")

    @property
    def has_lapsed(self) -> bool:
        """Whether it was not renewed in time."""
        return self.acquired is not None and asyncio.get_running_loop().time() >= self.until

    def on_failure(self, failed: Callable[[HeadraceError], None]) -> None:
        """Has `failed` called when the watch shall end."""
        self._failed = failed
        if self._error is not None:
            failed(self._error)

    def give_turn(self) -> bool:
        """Lets it try; returns False when it has not used its last turn yet."""
        given = not self._has_turn
        self.takes_over = self.takes_over and self._is_new
        self._is_new, self._has_turn = False, True
        self._news.set()
        return given

    def refuse(self) -> None:
        """Tells it that it has to wait."""
        self.takes_over = False
        if self._is_new:
            self._is_new = False
            self._news.set()

    def goes_before(self, watch_id: WatchId) -> bool:
        """Whether it takes over from this watch of the same consumer."""
        # The clocks of two gateways may differ: whoever comes just now is the newer one.
        return self._is_new or watch_id < self.watch.watch_id

    def fail(self, error: HeadraceError) -> None:
        """Ends the watch with an error, and lets go of the subscription; the first one counts."""
        if self._error is None:
            self._error = error
            self._keeper.close(self)
            self._news.set()
            if self._failed is not None:
                self._failed(error)

    async def _acquire(self) -> Acquired | None:
        self._asked = True
        acquired, self.until = await self._keeper.acquire(self)
        self.acquired = acquired
        return acquired

    def _has_answer(self, task: asyncio.Task[Acquired | None]) -> None:
        self._acquiring = None
        if not task.cancelled():
            # Nobody else may ask when its watch is gone.
            task.exception()
        self._keeper.look()
