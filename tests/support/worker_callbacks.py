"""Controllable callbacks of a BatchWorker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from headrace_core.delivery import BatchWorker
from headrace_core.delivery.keys import queue_key
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.runtime.settings import DEFAULT_REDIS_PREFIX, Settings
from headrace_core.runtime.tasks import end_tasks

POOL = "pool"
INSTALLATION = UUID(int=1)
QUEUE = queue_key(DEFAULT_REDIS_PREFIX, INSTALLATION, POOL)


async def identify() -> UUID:
    return INSTALLATION


class FakeCallbacks:
    """Fake claims and handlers. Each delivery is claimed, and attempts run until `gate` opens.

    Attributes:
        undelivered: the attempts that the next PostgreSQL query returns.
        queries: the limits of the queries so far.
        failed_claims: the number of claims that failed while `unavailable` was set.
        skipped_claims: how many of the next claims skip all deliveries.
    """

    def __init__(self) -> None:
        self.batches: list[list[AttemptKey]] = []
        self.started: list[AttemptKey] = []
        self.running: set[AttemptKey] = set()
        self.most_running = 0
        self.undelivered: list[AttemptKey] = []
        self.queries: list[int] = []
        self.unavailable = False
        self.failed_claims = 0
        self.skipped_claims = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._changed = asyncio.Condition()
        self.worker: BatchWorker[AttemptKey] | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def claim(self, deliveries: Sequence[AttemptKey], most: int) -> list[AttemptKey]:
        if self.unavailable:
            self.failed_claims += 1
            await self._notify()
            raise Unavailable("postgresql")
        if self.skipped_claims:
            # The claim skips the rows, as if another statement had locked them.
            self.skipped_claims -= 1
            self.undelivered = list(deliveries)
            return []
        claimed = list(deliveries[:most])
        # The next query returns the attempts that had no slot.
        self.undelivered = [*deliveries[most:], *self.undelivered]
        self.batches.append(claimed)
        await self._notify()
        return claimed

    def start(self, delivery: AttemptKey) -> None:
        task = asyncio.create_task(self._run(delivery))
        self.tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self.tasks.remove(task)
        assert self.worker is not None
        self.worker.release()

    async def _run(self, delivery: AttemptKey) -> None:
        self.started.append(delivery)
        self.running.add(delivery)
        self.most_running = max(self.most_running, len(self.running))
        await self._notify()
        try:
            await self.gate.wait()
        finally:
            self.running.remove(delivery)
        await self._notify()

    async def find(self, limit: int) -> list[AttemptKey]:
        self.queries.append(limit)
        attempts, self.undelivered = self.undelivered[:limit], self.undelivered[limit:]
        await self._notify()
        return attempts

    async def until_started(self, *deliveries: AttemptKey) -> None:
        """Wait until all these attempts have started."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: set(deliveries) <= set(self.started))

    async def until_queried(self) -> None:
        """Wait for the next PostgreSQL query."""
        before = len(self.queries)
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: len(self.queries) > before)

    async def until_idle(self) -> None:
        """Wait until no attempt is running."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: not self.running)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def running_worker(
    settings: Settings, callbacks: FakeCallbacks, *, pool: str = POOL
) -> AsyncIterator[BatchWorker[AttemptKey]]:
    """Run a BatchWorker for the duration of the block."""
    worker = BatchWorker(
        settings,
        pool=pool,
        claim=callbacks.claim,
        start=callbacks.start,
        find=callbacks.find,
        identify=identify,
    )
    # Only a delivery may wake the worker.
    worker._wait_s = settings.redis_timeout / 2
    callbacks.worker = worker
    main = asyncio.create_task(worker.main())
    try:
        yield worker
    finally:
        async with asyncio.timeout(60):
            await end_tasks(main, *callbacks.tasks)
        await worker.close()
    assert main.cancelled(), main.exception()


def new_keys(count: int, *, attempt: int = 1) -> list[AttemptKey]:
    """Return attempt keys of jobs that are not in the database."""
    return [AttemptKey(JobId(uuid7()), attempt) for _ in range(count)]
