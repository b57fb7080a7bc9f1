"""F22: PostgreSQL has no disk space for data, then none for its WAL; Redis has no memory."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from faults.cluster import Plan
from faults.disk import Disk, unsupported_reason
from faults.scenario import Scenario
from faults.trial import Trial

DISK_MIB = 512
# Longest recovery once space is available again, in seconds.
MAX_RECOVERY_S = 60.0
MAX_REDIS_RECOVERY_S = 15.0
# Interval at which the space that PostgreSQL freed is filled again, in seconds.
_REFILL_S = 0.2


async def run(trial: Trial) -> None:
    seconds = 12.0 if trial.short else 30.0
    disk = trial.cluster.disk
    assert disk is not None
    await trial.load()
    async with _supervised(trial) as deaths:
        async with trial.fault("the disk is full", recovers_within=MAX_RECOVERY_S):
            await _keep_full(disk, trial, seconds, log=False)
        await _wait_for_recovery(trial)
        async with trial.fault(
            "the disk is full, also for the log", recovers_within=MAX_RECOVERY_S
        ):
            await _keep_full(disk, trial, seconds, log=True)
        await _wait_for_recovery(trial)
        trial.figure("PostgreSQL ended", len(deaths), "times")
        async with (
            trial.fault("Redis' memory is full", recovers_within=MAX_REDIS_RECOVERY_S),
            trial.cluster.valkey.client() as client,
        ):
            await client.config_set("maxmemory-policy", "noeviction")
            await client.config_set("maxmemory", "1")
            await asyncio.sleep(seconds)
            await client.config_set("maxmemory", "0")
        await asyncio.sleep(MAX_REDIS_RECOVERY_S + 4)
    failed = sum(bool(s.codes) for load in trial.loads for s in load.history)
    trial.figure("submits that failed at first", failed, at_least=1)
    trial.expect_codes(only=frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"}))


async def _keep_full(disk: Disk, trial: Trial, seconds: float, *, log: bool) -> None:
    """Keep the disk full.

    Args:
        disk: the disk of PostgreSQL.
        trial: receives the duration of the fault.
        seconds: how long the disk stays full, in seconds.
        log: also fill the space reserved for the WAL, after which PostgreSQL exits.
    """
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            await asyncio.to_thread(disk.fill)
            if log:
                with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    async with trial.records.connection() as connection:
                        await connection.execute("SELECT pg_switch_wal()", timeout=5)
            await asyncio.sleep(_REFILL_S)
    finally:
        disk.free()


async def _wait_for_recovery(trial: Trial) -> None:
    """Wait for the recovery, which the running load measures."""
    await asyncio.sleep(25)


@asynccontextmanager
async def _supervised(trial: Trial) -> AsyncIterator[list[float]]:
    """Restart PostgreSQL whenever it exits, as a supervisor does; yield the times of its exits."""
    deaths: list[float] = []

    async def supervise() -> None:
        while True:
            await asyncio.sleep(0.5)
            if trial.cluster.postgres.running:
                continue
            deaths.append(time.time())
            trial.log("PostgreSQL ended; restarting it")
            # The start may fail while the disk is full; retry it.
            with suppress(AssertionError, OSError):
                await trial.cluster.postgres.start()

    supervising = asyncio.create_task(supervise(), name="supervisor of PostgreSQL")
    try:
        yield deaths
        assert not supervising.done(), "the PostgreSQL supervisor has ended"
    finally:
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)


def _unsupported_reason() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return unsupported_reason(Path(folder))


SCENARIO = Scenario(
    id="F22",
    title="PostgreSQL's disk is full, first with and then without space for its log; Redis is full",
    shows=("I1", "I2", "I3", "I4", "I7", "I9", "I10"),
    run=run,
    plan=Plan(disk_mib=DISK_MIB),
    unsupported=_unsupported_reason,
    usual=180,
    usual_short=150,
)
