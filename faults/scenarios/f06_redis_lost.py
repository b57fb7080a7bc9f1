"""F6: Redis is killed and comes back empty, and then once more with what it held long ago."""

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

GONE_S = 20.0
SHORT_S = 8.0
# So many jobs that take no time are drained with Redis and without, in turns.
DRAINED = 2000
SHORT_DRAINED = 1000
TURNS = 2
# Without Redis they are drained at this share of the usual rate at least.
SHARE = 0.5
# More than there are slots, so that deliveries are in the snapshot.
BURST = 600
LASTING_S = (0.5, 1.5)
# Seconds.
BACK_S = 10.0
RECOVERY_S = 30.0


async def run(trial: Trial) -> None:
    await _compare_rates(trial)
    await trial.nobody_watched()
    load = await trial.load()
    valkey = trial.cluster.valkey
    async with trial.fault("deliveries wait, and a snapshot is taken"):
        load.burst(BURST, Mix(seconds=LASTING_S, watched=0, attached=0, later=0))
        held = await trial.deliveries_wait()
        snapshot = await valkey.save()
        await asyncio.sleep(5)
    await _lose(trial, "Redis is gone and comes back empty", None)
    trial.figure("deliveries in the snapshot", len(held), at_least=1)
    await _lose(trial, "Redis is gone and comes back from an old snapshot", snapshot)
    trial.codes(at_most=frozenset())


async def _lose(trial: Trial, what: str, snapshot: Path | None) -> None:
    valkey = trial.cluster.valkey
    async with trial.fault(what, recovers_within=RECOVERY_S):
        await valkey.kill()
        began = time.time()
        await asyncio.sleep(SHORT_S if trial.short else GONE_S)
        end = time.time()
        await valkey.start(snapshot=snapshot)
    trial.figure(
        "workers use Redis again after",
        await until(lambda: _used(trial), within=60),
        "s",
        at_most=BACK_S,
    )
    await asyncio.sleep(RECOVERY_S / 2)

    def measure(evidence: Evidence) -> None:
        accepted = sum(
            submission.outcome is Outcome.OK and began <= submission.answered < end
            for submission in evidence.submissions
        )
        times = ends(evidence.events)
        ended = bisect_left(times, end) - bisect_left(times, began)
        trial.figure("submits accepted meanwhile", accepted / (end - began), "/s", at_least=30)
        trial.figure("jobs ended meanwhile", ended / (end - began), "/s", at_least=30)

    trial.afterwards(measure)


async def _used(trial: Trial) -> bool:
    """Whether each worker stands at its queue in Redis again."""
    fallbacks = [await worker.metric("headrace_redis_fallback") for worker in trial.cluster.workers]
    return not any(fallbacks)


async def _compare_rates(trial: Trial) -> None:
    """How fast jobs are drained with Redis and without, in turns, as the machine has moods."""
    count = SHORT_DRAINED if trial.short else DRAINED
    # Plans and pools are made in the first one.
    await _drain(trial, count // 4)
    with_redis = without = 0.0
    for _ in range(TURNS):
        with_redis += await _drain(trial, count)
        await trial.cluster.valkey.kill()
        without += await _drain(trial, count)
        await trial.cluster.valkey.start()
        await until(lambda: _used(trial), within=60)
    total = TURNS * count
    trial.figure("drained with Redis", total / with_redis, "/s")
    trial.figure("drained without", total / without, "/s")
    trial.figure("share of the usual rate", with_redis / without, at_least=SHARE)


async def _drain(trial: Trial, count: int) -> float:
    """How long it takes from the start of the first of that many jobs to the end of the last."""
    async with Client(trial.cluster.targets) as client:
        groups = [[JobSpec("work", {"seconds": 0})] * 250 for _ in range(count // 250)]
        handles = await asyncio.gather(*map(client.submit_many, groups))
    if not await trial.records.all_ended(within=120):
        raise TimeoutError("the jobs are not drained")
    return await trial.records.span([job.id for group in handles for job in group])


SCENARIO = Scenario(
    id="F6",
    title="Redis is killed for 20 s and comes back empty, and then from an old snapshot",
    shows=("I1", "I2", "I3", "I4", "I7", "I10"),
    run=run,
    usual=105,
    usual_short=90,
)
