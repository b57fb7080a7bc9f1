"""F15: a worker loses PostgreSQL but keeps Redis, and then the reverse."""

from __future__ import annotations

import asyncio
import time

from faults.cluster import Plan, Service
from faults.evidence import Evidence
from faults.measure import claim_waits
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace_core.domain.lifecycle import EventType

DURATION_S = 60.0
SHORT_DURATION_S = 25.0
# Longest times, in seconds: until the worker registers again, claim wait, and recovery.
MAX_REJOIN_S = 10.0
MAX_WAIT_S = 5.0
# The recovery includes the lease, after which other workers run the attempts.
MAX_RECOVERY_S = 30.0


async def run(trial: Trial) -> None:
    await trial.load()
    worker = trial.cluster.workers[0]
    assert worker.postgres is not None
    assert worker.redis is not None
    duration = SHORT_DURATION_S if trial.short else DURATION_S
    heartbeat = trial.cluster.settings.worker_beat

    ids = await _worker_ids(trial, worker)
    async with trial.fault("a worker loses PostgreSQL", recovers_within=MAX_RECOVERY_S):
        worker.postgres.hold()
        lost = time.time()
        await asyncio.sleep(duration)
        worker.postgres.release()
        reconnect_time = time.time()
    rejoined = await until(lambda: _has_new_id(trial, worker, ids), within=MAX_REJOIN_S + 5)
    trial.figure(
        "time until the worker registers under a new id", rejoined, "s", at_most=MAX_REJOIN_S
    )
    await asyncio.sleep(MAX_RECOVERY_S + 4)

    async with trial.fault("the worker loses Redis", recovers_within=MAX_RECOVERY_S):
        worker.redis.hold()
        noticed = await until(lambda: _uses_fallback(worker, True), within=15)
        trial.figure("time until the worker claims from PostgreSQL", noticed, "s", at_most=10)
        before = await _read_successes(worker)
        await asyncio.sleep(duration)
        trial.figure(
            "attempts the worker ended without Redis",
            await _read_successes(worker) - before,
            at_least=1,
        )
        worker.redis.release()
    reconnected = await until(lambda: _uses_fallback(worker, False), within=15)
    trial.figure("time until the worker uses Redis again", reconnected, "s", at_most=10)
    losses = await worker.metric("headrace_lease_losses_total")
    trial.figure("leases lost", losses, at_least=1, at_most=1)
    await asyncio.sleep(MAX_RECOVERY_S + 4)

    def measure(evidence: Evidence) -> None:
        starts = [
            event.time.timestamp()
            for event in evidence.events
            if event.type is EventType.STARTED and event.worker_id in ids
        ]
        last = max((moment for moment in starts if moment < reconnect_time), default=lost)
        trial.figure(
            "time from the loss to the last start", max(0.0, last - lost), "s", at_most=heartbeat
        )
        # A delivery that this worker takes but cannot claim would be repeated only after 10 s.
        waits = claim_waits(evidence.events, since=lost + heartbeat, until=reconnect_time)
        trial.figure("longest claim wait of other jobs", max(waits), "s", at_most=MAX_WAIT_S)
        trial.figure(
            "later starts under the old id",
            sum(moment > lost + heartbeat for moment in starts),
            at_most=0,
        )

    trial.on_evidence(measure)


async def _worker_ids(trial: Trial, worker: Service) -> set[str]:
    pids = await trial.records.worker_pids()
    return {worker_id for worker_id, pid in pids.items() if pid == worker.pid}


async def _has_new_id(trial: Trial, worker: Service, ids: set[str]) -> bool:
    return bool(await _worker_ids(trial, worker) - ids)


async def _uses_fallback(worker: Service, expected: bool) -> bool:
    return bool(await worker.metric("headrace_redis_fallback")) is expected


async def _read_successes(worker: Service) -> float:
    return await worker.metric("headrace_attempts_ended_total", event="succeeded")


SCENARIO = Scenario(
    id="F15",
    title=f"a worker loses PostgreSQL for {DURATION_S:g} s but keeps Redis, and then the reverse",
    shows=("I1", "I2", "I3", "I4", "I6", "I7", "I10"),
    run=run,
    usual=220,
    usual_short=155,
    plan=Plan(links=frozenset({"worker"})),
)
