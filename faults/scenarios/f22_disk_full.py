"""F22: PostgreSQL has no room for data, and then none for its log; Redis has no memory."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from faults.cluster import Plan
from faults.disk import Disk, why_not
from faults.scenario import Scenario
from faults.trial import Trial

DISK_MIB = 512
# Seconds until the throughput must be back, once there is room.
RECOVERY_S = 60.0
REDIS_RECOVERY_S = 15.0
# How often what PostgreSQL has given back is taken again.
_AGAIN_S = 0.2


async def run(trial: Trial) -> None:
    seconds = 12.0 if trial.short else 30.0
    disk = trial.cluster.disk
    assert disk is not None
    await trial.load()
    async with _supervised(trial) as deaths:
        async with trial.fault("the disk is full", recovers_within=RECOVERY_S):
            await _full(disk, trial, seconds, log=False)
        await _back(trial)
        async with trial.fault("and there is no room for the log", recovers_within=RECOVERY_S):
            await _full(disk, trial, seconds, log=True)
        await _back(trial)
        trial.figure("PostgreSQL ended by itself", len(deaths), "times")
        async with (
            trial.fault("Redis' memory is full", recovers_within=REDIS_RECOVERY_S),
            trial.cluster.valkey.client() as client,
        ):
            await client.config_set("maxmemory-policy", "noeviction")
            await client.config_set("maxmemory", "1")
            await asyncio.sleep(seconds)
            await client.config_set("maxmemory", "0")
        await asyncio.sleep(REDIS_RECOVERY_S + 4)
    failed = sum(bool(s.codes) for load in trial.loads for s in load.history)
    trial.figure("submits that were refused at first", failed, at_least=1)
    trial.codes(at_most=frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"}))


async def _full(disk: Disk, trial: Trial, seconds: float, *, log: bool) -> None:
    """Keeps the disk full.

    Args:
        disk: which one.
        trial: where PostgreSQL runs.
        seconds: for how long.
        log: use up the room that the log has already, too, after which PostgreSQL ends itself.
    """
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            await asyncio.to_thread(disk.fill)
            if log:
                with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    async with trial.records.connection() as connection:
                        await connection.execute("SELECT pg_switch_wal()", timeout=5)
            await asyncio.sleep(_AGAIN_S)
    finally:
        disk.free()


async def _back(trial: Trial) -> None:
    """Waits until it should have recovered; the load goes on, and so it is seen when it did."""
    await asyncio.sleep(25)


@asynccontextmanager
async def _supervised(trial: Trial) -> AsyncIterator[list[float]]:
    """Starts PostgreSQL again whenever it has ended, as a supervisor does; yields when it had."""
    deaths: list[float] = []

    async def supervise() -> None:
        while True:
            await asyncio.sleep(0.5)
            if trial.cluster.postgres.running:
                continue
            deaths.append(time.time())
            trial.say("PostgreSQL has ended; it is started again")
            # Without room it may not come up; then it is tried again.
            with suppress(AssertionError, OSError):
                await trial.cluster.postgres.start()

    supervising = asyncio.create_task(supervise(), name="supervisor of PostgreSQL")
    try:
        yield deaths
        assert not supervising.done(), "the supervisor of PostgreSQL has ended"
    finally:
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)


def _cannot() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return why_not(Path(folder))


SCENARIO = Scenario(
    id="F22",
    title="PostgreSQL's disk is full for a while, with and without room for its log; Redis' memory",
    shows=("I1", "I2", "I3", "I4", "I7", "I9", "I10"),
    run=run,
    plan=Plan(disk_mib=DISK_MIB),
    cannot=_cannot,
    usual=180,
    usual_short=150,
)
