"""The worker's side of delivery: arq's Worker with blocking pops and batches.

Stock arq polls every 0.5 s. It reads the record, the try counter and the in-progress mark of a job
in separate round trips, and writes a result that Headrace does not use: about 0.55 ms of CPU per
job. BatchWorker pops one delivery per free slot with a single blocking command, which removes the
deliveries from the queue. If the process dies, the scheduler delivers the unclaimed attempts again.
If PostgreSQL is unavailable, the worker puts the deliveries back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar
from uuid import uuid4

import structlog
from arq.worker import Worker, func
from redis.exceptions import RedisError

from headrace_core.delivery.keys import (
    EXPIRE_MS,
    FUNCTION_NAME,
    ReadInstallationId,
    connect,
    deserialize,
    queue_key,
    record_prefix,
    serialize,
)
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.redis_client import RedisFault, check_writes, fault_to_log
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks

_log = structlog.get_logger()

Claimed = TypeVar("Claimed")

# The maximum number of deliveries in one batch. Earlier attempts run while a batch is claimed.
_MAX_BATCH = 200
# Maximum time that a pop waits, in seconds.
_WAIT_S = 1.0
# Seconds between two polls of PostgreSQL while slots are free, before jitter.
_POLL_S = 2.0
# Maximum time that a pop waits while polls find undelivered jobs, in seconds.
_SHORT_WAIT_S = 0.02
# Seconds from a claim that skipped an attempt to the next poll. Another transaction may have locked
# the row for a moment. The time doubles with each such claim.
_POLL_AFTER_SKIP_S = 0.02
# Shortest and longest wait before retrying a failed claim or an unavailable Redis, in seconds.
_RETRY_S = (0.2, 0.6)
# The number of attempts that a poll reads per free slot, and the maximum per poll. All workers find
# the same jobs, so each worker reads more jobs than it needs and claims the first free ones.
_READ_FACTOR = 8
_MAX_FOUND = 1000
# The name and the rank of a delivery, as Redis returns them.
_Entry = tuple[bytes, bytes]


class RedisTooOldError(RedisError):
    """The server lacks the command BZMPOP, which Redis 7.0 added."""


class BatchWorker(Worker, Generic[Claimed]):
    """Pops deliveries from the arq queue of a pool, claims them and starts each in a slot.

    Args:
        settings: the address of Redis, and the number of slots.
        pool: the pool whose queue it serves.
        claim: claims up to the given number of attempts, in order, and returns the claimed jobs.
        start: starts a claimed job. It must not raise. Its owner must call `release` when the job
            ends.
        find: returns up to the given number of claimable attempts from PostgreSQL.
        identify: returns the installation id.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pool: str,
        claim: Callable[[Sequence[AttemptKey], int], Awaitable[Sequence[Claimed]]],
        start: Callable[[Claimed], None],
        find: Callable[[int], Awaitable[Sequence[AttemptKey]]],
        identify: ReadInstallationId,
    ) -> None:
        super().__init__(
            functions=[func(_unused_function, name=FUNCTION_NAME)],  # type: ignore[arg-type]
            redis_pool=connect(settings, name=(name := f"headrace-worker-{uuid4().hex}")),
            max_jobs=settings.worker_slots,
            handle_signals=False,
            job_serializer=serialize,
            job_deserializer=deserialize,
        )
        self._pool_name = pool
        self._identify = identify
        self._prefix = settings.redis_prefix
        self._record_prefix = record_prefix(self._prefix).encode()
        # The name of this worker's connections in CLIENT LIST.
        self._name = name
        # The record keys of the last batch, which the next pop deletes.
        self._records: list[bytes] = []
        self._claim, self._start, self._find = claim, start, find
        self._slot_free = asyncio.Event()
        # Set while no pop runs and no popped delivery waits for its claim.
        self._idle = asyncio.Event()
        # True while Redis is unavailable and jobs are claimed from PostgreSQL without deliveries.
        self.without_redis = False
        # True if Redis lacks BZMPOP.
        self._too_old = False
        # A pop must return before its connection times out.
        self._wait_s = min(_WAIT_S, settings.redis_timeout / 2)
        # The time at which to poll PostgreSQL next.
        self._poll_at = self.loop.time()
        # True if the last poll found jobs and no delivery has arrived since.
        self._found_undelivered = False
        # True if the last claim skipped an attempt.
        self._skipped = False
        # Seconds from a claim that skipped an attempt to the next poll.
        self._skipped_s = _POLL_AFTER_SKIP_S

    @property
    def free_slots(self) -> int:
        """The number of free slots."""
        return self.max_jobs - self.job_counter

    @property
    def _claim_limit(self) -> int:
        return min(self.free_slots, _MAX_BATCH)

    async def main(self) -> None:
        """Pop, claim and start attempts until cancelled, even if Redis or PostgreSQL fails."""
        await self._name_queue()
        while True:
            await self._wait_for_slot()
            wanted = self._claim_limit
            try:
                entries = await self._pop(wanted)
            except RedisFault as fault:
                if "unknown command" in str(fault):
                    self._too_old = True
                    _log.error("redis_too_old", needed="Redis 7.0 or newer, or Valkey")
                await self._run_without_redis(fault)
                continue
            if entries:
                self._found_undelivered = False
                try:
                    await self._claim_and_start(_parse_deliveries(entries))
                except Unavailable as fault:
                    # PostgreSQL may be unavailable to this worker only.
                    await self._put_back(entries)
                    await _back_off(fault)
                    continue
                self._records = [self._record_prefix + name for name, _ in entries]
            too_few = len(entries) < wanted
            if too_few and (self._found_undelivered or self.loop.time() >= self._poll_at):
                await self._poll()

    async def ping(self) -> None:
        """Check that Redis has BZMPOP and accepts writes.

        A full server or a replica still responds, but cannot receive deliveries.

        Raises:
            Exception: Redis lacks BZMPOP or rejects the write.
        """
        if self._too_old:
            # The server may have been replaced.
            reply = self.pool.execute_command("COMMAND INFO", "BZMPOP")  # type: ignore[no-untyped-call]
            [command] = await reply
            if command is None:
                raise RedisTooOldError
            self._too_old = False
        await check_writes(self.pool, self._prefix, await self._identify())

    def pause(self) -> None:
        """Stop popping. Popped deliveries are started or put back."""
        self.allow_pick_jobs = False

    async def leave(self) -> None:
        """Pause, and return once no popped delivery waits for its claim."""
        self.pause()
        with suppress(*RedisFault):
            # End the blocking pop early.
            for client in await self.pool.client_list():
                if client["name"] == self._name and "b" in client["flags"]:
                    await self.pool.client_unblock(int(client["id"]))
        await self._idle.wait()

    def resume(self) -> None:
        """Resume popping after a pause."""
        self.allow_pick_jobs = True
        self._slot_free.set()

    def release(self) -> None:
        """Free the slot of an ended job."""
        self.job_counter -= 1
        self._slot_free.set()

    async def close(self) -> None:
        """Close the connections. The owner of this worker ends its jobs."""
        await self.pool.aclose()
        await self.pool.connection_pool.disconnect()

    async def _wait_for_slot(self) -> None:
        while not (self.allow_pick_jobs and self.free_slots > 0):
            self._slot_free.clear()
            self._idle.set()
            await self._slot_free.wait()
        self._idle.clear()

    async def _pop(self, wanted: int) -> Sequence[_Entry]:
        """Return up to `wanted` deliveries; wait while the queue is empty."""
        records, self._records = self._records, []
        async with self.pool.pipeline(transaction=False) as pipeline:
            if records:
                pipeline.unlink(*records)
            wait = _SHORT_WAIT_S if self._found_undelivered else self._wait_s
            if self._skipped:
                wait = min(wait, max(_SHORT_WAIT_S, self._poll_at - self.loop.time()))
            pipeline.execute_command("BZMPOP", wait, 1, self.queue_name, "MIN", "COUNT", wanted)
            *_, popped = await pipeline.execute()
        if popped is None:
            return []
        entries: Sequence[_Entry] = popped[1]
        if not self.allow_pick_jobs:
            # The worker was paused during the pop.
            await self._put_back(entries)
            return []
        return entries

    async def _put_back(self, entries: Sequence[_Entry]) -> None:
        """Return deliveries to the queue; if Redis fails, the scheduler delivers them again."""
        with suppress(*RedisFault):
            async with self.pool.pipeline(transaction=True) as pipeline:
                pipeline.zadd(self.queue_name, {name: float(rank) for name, rank in entries})
                pipeline.pexpire(self.queue_name, EXPIRE_MS)
                await pipeline.execute()

    async def _poll(self) -> None:
        """Claim waiting jobs from PostgreSQL for the free slots.

        Deliveries can be missing even if this worker can reach Redis: no scheduler leads, or the
        leader cannot reach Redis. A poll also finds attempts whose delivery is pending; that
        delivery is dropped when its claim fails.
        """
        self._poll_at = self.loop.time() + random.uniform(0.5, 1.5) * _POLL_S
        self._skipped = False
        try:
            await self.ping()
        except RedisFault as fault:
            await self._run_without_redis(fault)
            return
        await self._wait_for_slot()
        started = await self._start_found()
        if started and not self._found_undelivered:
            _log.info("jobs_found_undelivered", jobs=started)
        self._found_undelivered = started > 0

    async def _name_queue(self) -> None:
        while True:
            try:
                self.queue_name = queue_key(self._prefix, await self._identify(), self._pool_name)
            except Unavailable as fault:
                await _back_off(fault)
            else:
                return

    async def _run_without_redis(self, fault: Exception) -> None:
        """Claim jobs from PostgreSQL until Redis is available again."""
        _log.warning(
            "redis_lost",
            error=type(fault).__name__,
            fallback="claiming from postgresql",
            exc_info=fault_to_log(fault),
        )
        # Use a separate task, so a hung Redis does not delay the jobs.
        restored = asyncio.create_task(self._wait_for_redis(), name="redis-is-available")
        self.without_redis = True
        try:
            while not restored.done():
                await self._wait_for_slot()
                if not await self._start_found():
                    await asyncio.wait({restored}, timeout=random.uniform(0.1, 0.3))
        finally:
            self.without_redis = False
            await end_tasks(restored)
        _log.info("redis_found")

    async def _wait_for_redis(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(*_RETRY_S))
            with suppress(*RedisFault):
                await self.ping()
                return

    async def _start_found(self) -> int:
        """Claim and start waiting jobs from PostgreSQL.

        Returns:
            The number of started jobs; 0 while PostgreSQL is unavailable.
        """
        try:
            found = await self._find(min(self._claim_limit * _READ_FACTOR, _MAX_FOUND))
            return await self._claim_and_start(found)
        except Unavailable as fault:
            await _back_off(fault)
            return 0

    async def _claim_and_start(self, deliveries: Sequence[AttemptKey]) -> int:
        """Claim attempts for the free slots, start them and return their number.

        Raises:
            Unavailable: PostgreSQL is unavailable.
        """
        if not (deliveries and self.allow_pick_jobs):
            return 0
        wanted = self._claim_limit
        jobs = await self._claim(deliveries, wanted)
        self._skipped = len(jobs) < min(len(deliveries), wanted)
        if self._skipped:
            self._poll_at = min(self._poll_at, self.loop.time() + self._skipped_s)
            self._skipped_s = min(2 * self._skipped_s, _POLL_S)
        else:
            self._skipped_s = _POLL_AFTER_SKIP_S
        self.job_counter += len(jobs)
        for claimed in jobs:
            self._start(claimed)
        return len(jobs)


async def _back_off(fault: Unavailable) -> None:
    _log.warning("claim_failed", dependency=fault.dependency)
    await asyncio.sleep(random.uniform(*_RETRY_S))


def _parse_deliveries(entries: Sequence[_Entry]) -> list[AttemptKey]:
    deliveries = []
    for name, _ in entries:
        try:
            deliveries.append(AttemptKey.parse(name.decode()))
        except ValueError:
            _log.warning("delivery_malformed")
    return deliveries


async def _unused_function(_: dict[Any, Any], name: str) -> None:
    raise AssertionError(f"stock arq called the function for {name}")
