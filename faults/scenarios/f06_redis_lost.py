"""F6: Redis is killed and restarted empty, then killed and restarted from an old snapshot."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from pathlib import Path

from faults.evidence import Evidence, Outcome
from faults.load import Mix
from faults.measure import ends
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace import Client, JobSpec

DOWN_S = 20.0
SHORT_DOWN_S = 8.0
# Empty jobs drained in each turn of a full and of a short trial.
DRAIN_JOBS = 2000
SHORT_DRAIN_JOBS = 1000
# Number of turns with Redis, and of turns without it.
TURNS = 2
# Lowest drain rate without Redis, as a share of the rate with Redis.
MIN_SHARE = 0.5
# The number of jobs before the snapshot, and their shortest and longest duration in seconds. There
# are more jobs than slots, so the snapshot contains deliveries.
BURST_JOBS = 600
DURATION_S = (0.5, 1.5)
# Longest time until workers use Redis again, and longest recovery, in seconds.
MAX_REUSE_S = 10.0
MAX_RECOVERY_S = 30.0


async def run(trial: Trial) -> None:
    await _compare_rates(trial)
    await trial.mark_unwatched()
    load = await trial.load()
    valkey = trial.cluster.valkey
    async with trial.fault("deliveries wait while a snapshot is written"):
        load.burst(BURST_JOBS, Mix(seconds=DURATION_S, watched=0, attached=0, scheduled=0))
        waiting = await trial.waiting_deliveries()
        snapshot = await valkey.save()
        await asyncio.sleep(5)
    await _lose_redis(trial, "Redis is down and restarts empty", None)
    trial.figure("deliveries in the snapshot", len(waiting), at_least=1)
    await _lose_redis(trial, "Redis is down and restarts from an old snapshot", snapshot)
    trial.expect_codes(only=frozenset())


async def _lose_redis(trial: Trial, what: str, snapshot: Path | None) -> None:
    valkey = trial.cluster.valkey
    async with trial.fault(what, recovers_within=MAX_RECOVERY_S):
        await valkey.kill()
        started = time.time()
        await asyncio.sleep(SHORT_DOWN_S if trial.short else DOWN_S)
        end = time.time()
        await valkey.start(snapshot=snapshot)
    trial.figure(
        "time until workers use Redis again",
        await until(lambda: _all_use_redis(trial), within=60),
        "s",
        at_most=MAX_REUSE_S,
    )
    await asyncio.sleep(MAX_RECOVERY_S / 2)

    def measure(evidence: Evidence) -> None:
        accepted = sum(
            submission.outcome is Outcome.OK and started <= submission.responded < end
            for submission in evidence.submissions
        )
        times = ends(evidence.events)
        ended = bisect_left(times, end) - bisect_left(times, started)
        trial.figure(
            "submits accepted without Redis", accepted / (end - started), "/s", at_least=30
        )
        trial.figure("jobs ended without Redis", ended / (end - started), "/s", at_least=30)

    trial.on_evidence(measure)


async def _all_use_redis(trial: Trial) -> bool:
    """Return whether every worker reads its queue in Redis."""
    fallbacks = [await worker.metric("headrace_redis_fallback") for worker in trial.cluster.workers]
    return not any(fallbacks)


async def _compare_rates(trial: Trial) -> None:
    """Measure the drain rate with and without Redis, in turns that average out noise."""
    count = SHORT_DRAIN_JOBS if trial.short else DRAIN_JOBS
    # Warm up query plans and connection pools.
    await _drain(trial, count // 4)
    with_redis = without = 0.0
    for _ in range(TURNS):
        with_redis += await _drain(trial, count)
        await trial.cluster.valkey.kill()
        without += await _drain(trial, count)
        await trial.cluster.valkey.start()
        await until(lambda: _all_use_redis(trial), within=60)
    total = TURNS * count
    trial.figure("drain rate with Redis", total / with_redis, "/s")
    trial.figure("drain rate without Redis", total / without, "/s")
    trial.figure(
        "ratio of the drain rates without and with Redis", with_redis / without, at_least=MIN_SHARE
    )


async def _drain(trial: Trial, count: int) -> float:
    """Return the time from the first start to the last end of `count` jobs, in seconds."""
    async with Client(trial.cluster.targets) as client:
        groups = [[JobSpec("work", {"seconds": 0})] * 250 for _ in range(count // 250)]
        handles = await asyncio.gather(*map(client.submit_many, groups))
    if not await trial.records.all_ended(within=120):
        raise TimeoutError("the jobs did not end within 120 s")
    return await trial.records.span([job.id for group in handles for job in group])


SCENARIO = Scenario(
    id="F6",
    title="Redis is down for 20 s and restarts empty, then from an old snapshot",
    shows=("I1", "I2", "I3", "I4", "I7", "I10"),
    run=run,
    usual=105,
    usual_short=90,
)
