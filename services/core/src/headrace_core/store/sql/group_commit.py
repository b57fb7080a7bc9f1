"""Group commit: many small writes share one transaction.

New items wait while the previous commit runs, so batches become larger under load. If no commit is
running, an item is committed at once. If commits are quick, batches would stay small even with many
submitters, so a batch can wait while more items keep arriving.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from headrace_core.domain.errors import ShuttingDown, Unavailable

# A batch waits for more items if the last commit and the queue contain at least this many.
_MIN_CROWD: Final = 5
# Time between two checks for more items, in seconds.
_POLL_S: Final = 0.001

Item = TypeVar("Item")
Result = TypeVar("Result")


class Overloaded(Unavailable):
    """Too many writes are waiting for the database. The caller can retry."""

    def __init__(self) -> None:
        super().__init__("postgresql")
        self.args = ("too many writes are waiting for postgresql; try again",)


def _unit_weight(_: object) -> int:
    return 1


def _time_out(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


class GroupCommit(Generic[Item, Result]):
    """Commit items in batches, in the order in which they were submitted.

    Args:
        commit: persists a batch and returns one result per item, in order. Its error is raised for
            every caller of the batch. It must have its own time limit.
        max_batch: the maximum number of items in a batch.
        max_pending: the maximum number of unfinished items, including those being committed.
        weigh: returns the weight of an item, in the unit of both weight limits.
        max_batch_weight: the weight at which a batch is full. A single item can be heavier.
        max_pending_weight: the maximum weight of all unfinished items.
        gather: the longest time that a batch waits for more items, in seconds. Batches wait only
            if the last commit and the queue contain at least `_MIN_CROWD` items.
    """

    def __init__(
        self,
        *,
        commit: Callable[[list[Item]], Awaitable[list[Result]]],
        max_batch: int,
        max_pending: int,
        weigh: Callable[[Item], int] = _unit_weight,
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
        # Commits run in the context of the constructor's caller, not of the first submitter.
        self._context = contextvars.copy_context()
        self._closed = False

    async def submit(self, item: Item, *, timeout: float | None = None) -> Result:  # noqa: ASYNC109
        """Submit an item and return its result after the commit.

        If the caller is cancelled or times out before the commit begins, the item is withdrawn.
        After that, the item is committed and its result is discarded. Other items are not affected.

        Args:
            item: the item to commit.
            timeout: the longest wait, in seconds; None for no limit.

        Raises:
            TimeoutError: the timeout expired.
            Overloaded: too many items are waiting.
            ShuttingDown: the group commit is closed.
            Exception: the error of `commit` for the batch.
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
            # The task starts in the next iteration of the loop, so its first batch has all items
            # of this iteration. It must not use the context of a single submitter.
            self._committer = asyncio.create_task(
                self._run(), name="group-commit", context=self._context.copy()
            )
        if timeout is None:
            return await future
        # Every submit needs a timer, and call_later takes a tenth of the time of asyncio.timeout().
        timer = loop.call_later(timeout, _time_out, future)
        try:
            return await future
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Reject new items and wait until all waiting items are committed.

        If this call is cancelled, the remaining items fail with ShuttingDown.
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
                if committed + len(self._waiting) >= _MIN_CROWD:
                    await self._gather_more()
        finally:
            self._committer = None
            # Items remain only after a cancellation.
            while self._waiting:
                _, weight, future = self._waiting.popleft()
                self._release(1, weight)
                if not future.done():
                    future.set_exception(ShuttingDown())

    async def _gather_more(self) -> None:
        """Wait until the next batch stops growing."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._gather
        size = -1
        while size < len(self._waiting) < self._max_batch and clock() < end and not self._closed:
            size = len(self._waiting)
            await asyncio.sleep(_POLL_S)

    async def _commit_batch(self) -> int:
        items, futures, weight = self._next_batch()
        if not items:
            return 0
        try:
            results = await self._commit(items)
            for future, result in zip(futures, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except Exception as error:  # noqa: BLE001 - the error is raised for the callers
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
                # Its caller was cancelled or timed out.
                self._release(1, weight)
                continue
            items.append(item)
            futures.append(future)
            total += weight
        return items, futures, total

    def _release(self, count: int, weight: int) -> None:
        self._pending -= count
        self._pending_weight -= weight
