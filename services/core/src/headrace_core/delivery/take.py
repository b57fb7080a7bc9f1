"""The worker's end: arq's Worker, made to wake at once and to move jobs in batches.

Stock arq polls every half second, reads a job's record, its try counter and its in-progress mark in
separate round trips, and writes a result that nobody needs here, about 0.55 ms of CPU a job. This
one takes up to as many deliveries as it has free slots with one command from arq's own queue, and
waits there while there is nothing. Taking removes a delivery: should this process die with it, the
scheduler delivers again what nobody has claimed. What it cannot claim it gives back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar
from uuid import uuid4

import structlog
from arq.constants import job_key_prefix
from arq.worker import Worker, func
from redis.exceptions import RedisError

from headrace_core.delivery.keys import (
    EXPIRE_MS,
    FUNCTION,
    Identify,
    connect,
    deserialize,
    queue_key,
    serialize,
)
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.redis_client import RedisFault, check_writes, unexpected
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks

_log = structlog.get_logger()

Claimed = TypeVar("Claimed")

# The most that is taken at once: while these are claimed, those before them run and end.
_MAX_BATCH = 200
# How long one wait at the queue lasts, in seconds.
_WAIT_S = 1.0
# How often a worker to whom too little comes looks into PostgreSQL, before jitter, in seconds, and
# how long it then waits at the queue while it finds something there.
_LOOK_S = 2.0
_GLANCE_S = 0.02
# How soon it looks after a claim that has passed over a delivery, in seconds: another statement may
# have held the row for a moment. The wait doubles while claims pass over what was found.
_PASSED_OVER_S = 0.02
# All workers look at the same jobs in PostgreSQL, so each one looks at so many times as many as it
# has slots for, and at no more than that in all: it takes the first ones that no other has.
_SPREAD = 8
_MAX_FOUND = 1000
# A delivery's name and its rank, as Redis says them.
_Taken = tuple[bytes, bytes]
# Where arq keeps a job's record.
_RECORD = job_key_prefix.encode()


class RedisTooOldError(RedisError):
    """Redis lacks BZMPOP, which came with 7.0."""


class BatchWorker(Worker, Generic[Claimed]):
    """Takes deliveries from a pool's arq queue, has them claimed, and runs each in a slot.

    Args:
        settings: where Redis is, and the number of slots.
        pool: the pool whose queue it serves.
        claim: makes deliveries this worker's own, the first that can be had, up to so many; what it
            returns is started.
        start: starts one of them. It must not raise, and whoever ends it calls `release`.
        find: what to claim while nothing comes through Redis: up to that many deliveries, straight
            from PostgreSQL.
        identify: returns the installation's id.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pool: str,
        claim: Callable[[Sequence[AttemptKey], int], Awaitable[Sequence[Claimed]]],
        start: Callable[[Claimed], None],
        find: Callable[[int], Awaitable[Sequence[AttemptKey]]],
        identify: Identify,
    ) -> None:
        super().__init__(
            functions=[func(_never, name=FUNCTION)],  # type: ignore[arg-type]
            redis_pool=connect(settings, name=(name := f"headrace-worker-{uuid4().hex}")),
            max_jobs=settings.worker_slots,
            handle_signals=False,
            job_serializer=serialize,
            job_deserializer=deserialize,
        )
        self._pool_name = pool
        self._identify = identify
        # By this name Redis knows its connections.
        self._name = name
        # The records of what was taken last.
        self._leftovers: list[bytes] = []
        self._claim, self._start, self._find = claim, start, find
        self._slot_free = asyncio.Event()
        # It takes nothing, and holds nothing that it has taken.
        self._idle = asyncio.Event()
        # Redis is gone, and what runs comes straight from PostgreSQL.
        self.without_redis = False
        # Redis does not know the command by which deliveries are taken.
        self._too_old = False
        # Well within what a call to Redis may take.
        self._wait_s = min(_WAIT_S, settings.redis_timeout / 2)
        # When slots that nothing comes for are a reason to look into PostgreSQL; whether the last
        # look found something, and nothing has come since.
        self._look_at = self.loop.time()
        self._overlooked = False
        # Whether the last claim got less than it asked for, and how soon that is a reason to look.
        self._passed_over = False
        self._passed_over_s = _PASSED_OVER_S

    @property
    def free_slots(self) -> int:
        """How many more jobs can run."""
        return self.max_jobs - self.job_counter

    @property
    def _wanted(self) -> int:
        return min(self.free_slots, _MAX_BATCH)

    async def main(self) -> None:
        """Takes and runs for ever; through faults of Redis and PostgreSQL too."""
        await self._name_queue()
        while True:
            await self._until_free()
            wanted = self._wanted
            try:
                taken = await self._take(wanted)
            except RedisFault as fault:
                if "unknown command" in str(fault):
                    self._too_old = True
                    _log.error("redis_too_old", needed="Redis 7.0 or newer, or Valkey")
                await self._do_without_redis(fault)
                continue
            if taken:
                self._overlooked = False
                try:
                    await self._begin(_parse(taken))
                except Unavailable as fault:
                    # Another worker may have the way to PostgreSQL that this one lacks.
                    await self._give_back(taken)
                    await _pause(fault)
                    continue
                self._leftovers = [_RECORD + name for name, _ in taken]
            too_few = len(taken) < wanted
            if too_few and (self._overlooked or self.loop.time() >= self._look_at):
                await self._look()

    async def ping(self) -> None:
        """Check that Redis can do what is needed and takes what would be delivered.

        One that is full, or a replica by now, still answers, and its queues stay empty.

        Raises:
            Exception: it cannot.
        """
        if self._too_old:
            # It may have been replaced meanwhile.
            asked = self.pool.execute_command("COMMAND INFO", "BZMPOP")  # type: ignore[no-untyped-call]
            [known] = await asked
            if known is None:
                raise RedisTooOldError
            self._too_old = False
        await check_writes(self.pool, await self._identify())

    def pause(self) -> None:
        """Takes nothing more; what it has in hand it starts or gives back."""
        self.allow_pick_jobs = False

    async def leave(self) -> None:
        """Pauses, and returns once it has nothing in hand."""
        self.pause()
        with suppress(*RedisFault):
            # Its wait at the queue would end by itself, but a moment later.
            for client in await self.pool.client_list():
                if client["name"] == self._name and "b" in client["flags"]:
                    await self.pool.client_unblock(int(client["id"]))
        await self._idle.wait()

    def resume(self) -> None:
        """Takes deliveries again after a pause."""
        self.allow_pick_jobs = True
        self._slot_free.set()

    def release(self) -> None:
        """Makes the slot free of a job that has ended."""
        self.job_counter -= 1
        self._slot_free.set()

    async def close(self) -> None:
        """Closes the connections. The jobs are ended by whoever started this worker."""
        await self.pool.aclose()
        await self.pool.connection_pool.disconnect()

    async def _until_free(self) -> None:
        while not (self.allow_pick_jobs and self.free_slots > 0):
            self._slot_free.clear()
            self._idle.set()
            await self._slot_free.wait()
        self._idle.clear()

    async def _take(self, wanted: int) -> Sequence[_Taken]:
        """Up to so many as the queue has; while it has nothing, what comes first."""
        leftovers, self._leftovers = self._leftovers, []
        async with self.pool.pipeline(transaction=False) as pipeline:
            if leftovers:
                pipeline.unlink(*leftovers)
            wait = _GLANCE_S if self._overlooked else self._wait_s
            if self._passed_over:
                # Not beyond the next look.
                wait = min(wait, max(_GLANCE_S, self._look_at - self.loop.time()))
            pipeline.execute_command("BZMPOP", wait, 1, self.queue_name, "MIN", "COUNT", wanted)
            *_, popped = await pipeline.execute()
        if popped is None:
            return []
        taken: Sequence[_Taken] = popped[1]
        if not self.allow_pick_jobs:
            # It paused meanwhile: others may take them.
            await self._give_back(taken)
            return []
        return taken

    async def _give_back(self, taken: Sequence[_Taken]) -> None:
        """Puts deliveries back where they were; should Redis be gone, they are made again."""
        with suppress(*RedisFault):
            async with self.pool.pipeline(transaction=True) as pipeline:
                pipeline.zadd(self.queue_name, {name: float(rank) for name, rank in taken})
                pipeline.pexpire(self.queue_name, EXPIRE_MS)
                await pipeline.execute()

    async def _look(self) -> None:
        """Begins what waits in PostgreSQL while there are slots for it.

        Who delivers may be cut off from a Redis that is there for this worker, or there is nobody;
        a few may come all the same, the short way from a gateway. What is on its way at this moment
        is found as well, and its delivery dies at the claim.
        """
        self._look_at = self.loop.time() + random.uniform(0.5, 1.5) * _LOOK_S
        self._passed_over = False
        try:
            await self.ping()
        except RedisFault as fault:
            await self._do_without_redis(fault)
            return
        await self._until_free()
        begun = await self._begin_found(await self._find_some())
        if begun and not self._overlooked:
            _log.info("jobs_found_undelivered", jobs=begun)
        self._overlooked = begun > 0

    async def _name_queue(self) -> None:
        while True:
            try:
                self.queue_name = queue_key(await self._identify(), self._pool_name)
            except Unavailable as fault:
                await _pause(fault)
            else:
                return

    async def _do_without_redis(self, fault: Exception) -> None:
        """Claims straight from PostgreSQL until Redis is back."""
        _log.warning(
            "redis_lost",
            error=type(fault).__name__,
            fallback="claiming from postgresql",
            exc_info=unexpected(fault),
        )
        # Asked on the side: a Redis that hangs must not hold up the jobs.
        back = asyncio.create_task(self._until_redis_is_back(), name="redis-is-back")
        self.without_redis = True
        try:
            while not back.done():
                await self._until_free()
                if not await self._begin_found(await self._find_some()):
                    await asyncio.wait({back}, timeout=random.uniform(0.1, 0.3))
        finally:
            self.without_redis = False
            await end_tasks(back)
        _log.info("redis_found")

    async def _until_redis_is_back(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(0.2, 0.6))
            with suppress(*RedisFault):
                await self.ping()
                return

    async def _find_some(self) -> Sequence[AttemptKey]:
        """What waits in PostgreSQL for the free slots, and more; nothing while it is gone."""
        try:
            return await self._find(min(self._wanted * _SPREAD, _MAX_FOUND))
        except Unavailable as fault:
            await _pause(fault)
            return []

    async def _begin_found(self, found: Sequence[AttemptKey]) -> int:
        """Begins what was found in PostgreSQL; tells how many these are."""
        try:
            return await self._begin(found)
        except Unavailable as fault:
            await _pause(fault)
            return 0

    async def _begin(self, deliveries: Sequence[AttemptKey]) -> int:
        """Claims deliveries for the free slots and starts what it gets; tells how many it got.

        Raises:
            Unavailable: they cannot be claimed now.
        """
        if not (deliveries and self.allow_pick_jobs):
            return 0
        wanted = self._wanted
        jobs = await self._claim(deliveries, wanted)
        self._passed_over = len(jobs) < min(len(deliveries), wanted)
        if self._passed_over:
            self._look_at = min(self._look_at, self.loop.time() + self._passed_over_s)
            self._passed_over_s = min(2 * self._passed_over_s, _LOOK_S)
        else:
            self._passed_over_s = _PASSED_OVER_S
        self.job_counter += len(jobs)
        for claimed in jobs:
            self._start(claimed)
        return len(jobs)


async def _pause(fault: Unavailable) -> None:
    _log.warning("claim_failed", dependency=fault.dependency)
    await asyncio.sleep(random.uniform(0.2, 0.6))


def _parse(taken: Sequence[_Taken]) -> list[AttemptKey]:
    deliveries = []
    for name, _ in taken:
        try:
            deliveries.append(AttemptKey.parse(name.decode()))
        except ValueError:
            _log.warning("delivery_malformed")
    return deliveries


async def _never(_: dict[Any, Any], name: str) -> None:
    raise AssertionError(f"{name} went through stock arq")
