"""F15: a worker loses PostgreSQL and keeps Redis, and then the reverse."""

from __future__ import annotations

import asyncio
import time

from faults.cluster import Plan, Service
from faults.evidence import Evidence
from faults.measure import claim_waits
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace_core.domain.lifecycle import EventType

LASTS_S = 60.0
SHORT_S = 25.0
# Seconds.
REJOINED_S = 10.0
WAIT_S = 5.0
# Others run what it had once its lease is over.
RECOVERY_S = 30.0


async def run(trial: Trial) -> None:
    await trial.load()
    worker = trial.cluster.workers[0]
    assert worker.postgres is not None
    assert worker.redis is not None
    lasts = SHORT_S if trial.short else LASTS_S
    beat = trial.cluster.settings.worker_beat

    ids = await _ids(trial, worker)
    async with trial.fault("a worker loses PostgreSQL", recovers_within=RECOVERY_S):
        worker.postgres.hold()
        lost = time.time()
        await asyncio.sleep(lasts)
        worker.postgres.release()
        back = time.time()
    rejoined = await until(lambda: _has_new_id(trial, worker, ids), within=REJOINED_S + 5)
    trial.figure("it rejoins under a new id after", rejoined, "s", at_most=REJOINED_S)
    await asyncio.sleep(RECOVERY_S + 4)

    async with trial.fault("it loses Redis", recovers_within=RECOVERY_S):
        worker.redis.hold()
        told = await until(lambda: _is_without_redis(worker, True), within=15)
        trial.figure("it claims from PostgreSQL after", told, "s", at_most=10)
        before = await _started(worker)
        await asyncio.sleep(lasts)
        trial.figure(
            "attempts that it ended without Redis", await _started(worker) - before, at_least=1
        )
        worker.redis.release()
    found = await until(lambda: _is_without_redis(worker, False), within=15)
    trial.figure("it uses Redis again after", found, "s", at_most=10)
    losses = await worker.metric("headrace_lease_losses_total")
    trial.figure("leases lost", losses, at_least=1, at_most=1)
    await asyncio.sleep(RECOVERY_S + 4)

    def measure(evidence: Evidence) -> None:
        starts = [
            event.time.timestamp()
            for event in evidence.events
            if event.type is EventType.STARTED and event.worker_id in ids
        ]
        last = max((moment for moment in starts if moment < back), default=lost)
        trial.figure("its last start after the loss", max(0.0, last - lost), "s", at_most=beat)
        # What it took from Redis and cannot claim would wait until it is delivered again, 10 s.
        waits = claim_waits(evidence.events, since=lost + beat, until=back)
        trial.figure("a job waits for a worker then", max(waits), "s", at_most=WAIT_S)
        trial.figure(
            "starts under the old id behind it",
            sum(moment > lost + beat for moment in starts),
            at_most=0,
        )

    trial.afterwards(measure)


async def _ids(trial: Trial, worker: Service) -> set[str]:
    pids = await trial.records.worker_pids()
    return {worker_id for worker_id, pid in pids.items() if pid == worker.pid}


async def _has_new_id(trial: Trial, worker: Service, ids: set[str]) -> bool:
    return bool(await _ids(trial, worker) - ids)


async def _is_without_redis(worker: Service, expected: bool) -> bool:
    return bool(await worker.metric("headrace_redis_fallback")) is expected


async def _started(worker: Service) -> float:
    return await worker.metric("headrace_attempts_ended_total", event="succeeded")


SCENARIO = Scenario(
    id="F15",
    title=f"a worker loses PostgreSQL for {LASTS_S:g} s but keeps Redis, and then the reverse",
    shows=("I1", "I2", "I3", "I4", "I6", "I7", "I10"),
    run=run,
    usual=220,
    usual_short=155,
    plan=Plan(links=frozenset({"worker"})),
)
