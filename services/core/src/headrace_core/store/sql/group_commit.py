"""Group commit: many small writes share one transaction.

Items gather while the commit before them runs, so that load makes batches bigger instead of queues
longer. An item that finds nobody committing is committed at once. Where commits are quick, a crowd
would nevertheless be committed in crumbs, each at the cost of a whole commit: so a batch may also
wait for more, as long as more keeps coming.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from headrace_core.domain.errors import ShuttingDown, Unavailable

# How many items are a crowd, and how long it is watched for another one, in seconds.
_CROWD: Final = 5
_STEP: Final = 0.001

Item = TypeVar("Item")
Result = TypeVar("Result")


class Overloaded(Unavailable):
    """More is waiting for the database than may wait. Trying again may help."""

    def __init__(self) -> None:
        super().__init__("postgresql")
        self.args = ("too many writes are waiting for postgresql; try again",)


def _one(_: object) -> int:
    return 1


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


class GroupCommit(Generic[Item, Result]):
    """Commits items in batches, in the order of their submits.

    Args:
        commit: persists a batch and returns one result per item, in order. What it raises goes to
            every caller of that batch and to nobody else. It has a deadline of its own.
        max_batch: the most items of a batch.
        max_pending: the most items that may wait, those being committed included.
        weigh: what an item weighs, in bytes or whatever the two bounds below count.
        max_batch_weight: a batch is full at this weight; a single item may be heavier.
        max_pending_weight: the most that all waiting items may weigh.
        gather: how long a batch of a crowd waits for more at most, in seconds. A crowd are
            `_CROWD` items in the commit before and behind it; whoever comes alone never waits.
    """

    def __init__(
        self,
        *,
        commit: Callable[[list[Item]], Awaitable[list[Result]]],
        max_batch: int,
        max_pending: int,
        weigh: Callable[[Item], int] = _one,
        max_batch_weight: int | None = None,
        max_pending_weight: int | None = None,
        gather: float = 0.0,
    ) -> None:
        self._commit = commit
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._weigh = weigh
        self._max_batch_weight = max_batch_weight
        self._max_pending_weight = max_pending_weight
        self._gather = gather
        self._waiting: deque[tuple[Item, int, asyncio.Future[Result]]] = deque()
        self._pending = 0
        self._pending_weight = 0
        self._committer: asyncio.Task[None] | None = None
        # The context of its maker, not of the first submitter.
        self._context = contextvars.copy_context()
        self._closed = False

    async def submit(self, item: Item, *, timeout: float | None = None) -> Result:  # noqa: ASYNC109
        """Hands in an item and waits for the commit that it is part of.

        A caller that is cancelled, or waits no longer, takes its item back if its commit has not
        begun; else the item is committed and the result dropped. Other items of the batch never
        notice.

        Args:
            item: what to commit.
            timeout: the longest wait, in seconds. None: as long as it takes.

        Raises:
            TimeoutError: it took longer.
            Overloaded: too much is waiting.
            ShuttingDown: it was closed.
            Exception: what `commit` raised for the batch.
        """
        if self._closed:
            raise ShuttingDown
        weight = self._weigh(item)
        if self._pending >= self._max_pending or (
            self._max_pending_weight is not None
            and self._pending
            and self._pending_weight + weight > self._max_pending_weight
        ):
            raise Overloaded
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, weight, future))
        self._pending += 1
        self._pending_weight += weight
        if self._committer is None:
            # A task begins at the loop's next turn: what this turn still submits joins in.
            # The task works for all submitters, so it runs in the context of none of them.
            self._committer = asyncio.create_task(
                self._run(), name="group-commit", context=self._context.copy()
            )
        if timeout is None:
            return await future
        # A tenth of what asyncio.timeout() costs, which every submit would pay.
        timer = loop.call_later(timeout, _give_up, future)
        try:
            return await future
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Takes no more items and waits until those that wait are committed.

        When it is cancelled meanwhile, what is left fails with ShuttingDown.
        """
        self._closed = True
        committer = self._committer
        if committer is None:
            return
        try:
            await asyncio.shield(committer)
        except asyncio.CancelledError:
            committer.cancel()
            raise

    async def _run(self) -> None:
        try:
            while self._waiting:
                committed = await self._commit_batch()
                if committed + len(self._waiting) >= _CROWD:
                    await self._gather_more()
        finally:
            self._committer = None
            # Only a cancellation leaves items behind.
            while self._waiting:
                _, weight, future = self._waiting.popleft()
                self._release(1, weight)
                if not future.done():
                    future.set_exception(ShuttingDown())

    async def _gather_more(self) -> None:
        """Waits until the next batch has grown, and stops growing."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._gather
        size = -1
        while size < len(self._waiting) < self._max_batch and clock() < end and not self._closed:
            size = len(self._waiting)
            await asyncio.sleep(_STEP)

    async def _commit_batch(self) -> int:
        items, futures, weight = self._next_batch()
        if not items:
            return 0
        try:
            results = await self._commit(items)
            for future, result in zip(futures, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except Exception as error:  # noqa: BLE001 - it is the callers' error, not the loop's
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._release(len(items), weight)
            for future in futures:
                if not future.done():
                    future.set_exception(ShuttingDown())
        return len(items)

    def _next_batch(self) -> tuple[list[Item], list[asyncio.Future[Result]], int]:
        items: list[Item] = []
        futures: list[asyncio.Future[Result]] = []
        total = 0
        while self._waiting and len(items) < self._max_batch:
            item, weight, future = self._waiting[0]
            if (
                items
                and self._max_batch_weight is not None
                and total + weight > self._max_batch_weight
            ):
                break
            self._waiting.popleft()
            if future.done():
                # Its caller was cancelled.
                self._release(1, weight)
                continue
            items.append(item)
            futures.append(future)
            total += weight
        return items, futures, total

    def _release(self, count: int, weight: int) -> None:
        self._pending -= count
        self._pending_weight -= weight
