"""What a BatchWorker calls, under a test's hand."""

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
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks

POOL = "pool"
INSTALLATION = UUID(int=1)
QUEUE = queue_key(INSTALLATION, POOL)


async def identify() -> UUID:
    return INSTALLATION


class Crew:
    """Claims everything, and runs it until the test opens the gate."""

    def __init__(self) -> None:
        self.batches: list[list[AttemptKey]] = []
        self.started: list[AttemptKey] = []
        self.running: set[AttemptKey] = set()
        self.most_running = 0
        self.found: list[AttemptKey] = []
        self.asked_for: list[int] = []
        self.unavailable = False
        self.refusals = 0
        # How many claims pass over everything.
        self.passed_over = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._changed = asyncio.Condition()
        self.worker: BatchWorker[AttemptKey] | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def claim(self, deliveries: Sequence[AttemptKey], most: int) -> list[AttemptKey]:
        if self.unavailable:
            self.refusals += 1
            await self._tell()
            raise Unavailable("postgresql")
        if self.passed_over:
            # As while another statement holds the rows.
            self.passed_over -= 1
            self.found = list(deliveries)
            return []
        claimed = list(deliveries[:most])
        # What it has found and has no slot for is found again.
        self.found = [*deliveries[most:], *self.found]
        self.batches.append(claimed)
        await self._tell()
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
        await self._tell()
        try:
            await self.gate.wait()
        finally:
            self.running.remove(delivery)
        await self._tell()

    async def find(self, limit: int) -> list[AttemptKey]:
        self.asked_for.append(limit)
        found, self.found = self.found[:limit], self.found[limit:]
        await self._tell()
        return found

    async def until_started(self, *deliveries: AttemptKey) -> None:
        """Waits until all of these have been started."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: set(deliveries) <= set(self.started))

    async def until_asked(self) -> None:
        """Waits until it was asked for what PostgreSQL has."""
        before = len(self.asked_for)
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: len(self.asked_for) > before)

    async def until_idle(self) -> None:
        """Waits until nothing runs."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: not self.running)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def at_work(
    settings: Settings, crew: Crew, *, pool: str = POOL
) -> AsyncIterator[BatchWorker[AttemptKey]]:
    """A BatchWorker that takes and runs for the length of the block."""
    worker = BatchWorker(
        settings, pool=pool, claim=crew.claim, start=crew.start, find=crew.find, identify=identify
    )
    # Nothing but a delivery shall wake it.
    worker._wait_s = settings.redis_timeout / 2
    crew.worker = worker
    main = asyncio.create_task(worker.main())
    try:
        yield worker
    finally:
        async with asyncio.timeout(10):
            await end_tasks(main, *crew.tasks)
        await worker.close()
    assert main.cancelled(), main.exception()


def some(count: int, *, attempt: int = 1) -> list[AttemptKey]:
    """Deliveries of jobs that nobody knows."""
    return [AttemptKey(JobId(uuid7()), attempt) for _ in range(count)]
