"""F3: a handler blocks the event loop of its worker for a minute."""

from __future__ import annotations

import asyncio
import time

from faults.cluster import Plan
from faults.evidence import Evidence
from faults.measure import claim_waits, percentile
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace import Client
from headrace_core.domain.lifecycle import EventType

BLOCKED_S = 60.0
# Two workers serve this queue, and one of them is blocked. The other workers serve the load.
QUEUE = "blocking"
# Limits, in seconds.
MAX_MOVE_S = 25.0
# From the start of the block to a new process: the watchdog timeout and a restart.
MAX_REPLACE_S = 45.0
MAX_SLOWDOWN = 2.0
# Waits below this number of seconds are noise, and count as this long.
_NOISE_S = 0.01


async def run(trial: Trial) -> None:
    trial.supervise(trial.cluster.workers)
    await trial.load(rate=60, steady=20)
    quiet_start = time.time() - 12
    async with trial.fault("a handler blocks the loop", recovers_within=30):
        blocked = time.time()
        async with Client(trial.cluster.targets) as client:
            job = await client.submit("block", {"seconds": BLOCKED_S}, queue=QUEUE)
        replaced = await until(lambda: _has_restarted(trial), within=MAX_REPLACE_S + 15)
        trial.figure("time until the process is replaced", replaced, "s", at_most=MAX_REPLACE_S)
        await asyncio.sleep(5 if trial.short else max(0.0, blocked + BLOCKED_S - time.time()))
        block_end = time.time()
    await asyncio.sleep(34 if not trial.short else 10)

    def measure(evidence: Evidence) -> None:
        starts = [
            event
            for event in evidence.events
            if event.job_id == job.id and event.type is EventType.STARTED
        ]
        trial.figure("attempts of the blocking job", len(starts), at_least=2, at_most=2)
        restart_delay = starts[-1].time - starts[0].time
        trial.figure(
            "time until the job runs elsewhere",
            restart_delay.total_seconds(),
            "s",
            at_most=MAX_MOVE_S,
        )
        others = [event for event in evidence.events if event.job_id != job.id]
        before = percentile(claim_waits(others, since=quiet_start, until=blocked), 0.95)
        during = percentile(claim_waits(others, since=blocked, until=block_end), 0.95)
        trial.figure("claim wait in other queues, p95 before", before * 1000, "ms")
        limit = MAX_SLOWDOWN * max(before, _NOISE_S) * 1000
        trial.figure("claim wait in other queues, p95 during", during * 1000, "ms", at_most=limit)

    trial.on_evidence(measure)


async def _has_restarted(trial: Trial) -> bool:
    return any(worker.restarts for worker in trial.cluster.workers)


BLOCKABLE_WORKER = {"worker_queues": (QUEUE,)}
LOAD_WORKER = {"worker_queues": ("default", "side")}

SCENARIO = Scenario(
    id="F3",
    title=f"a handler blocks the event loop of its worker for {BLOCKED_S:g} s",
    shows=("I1", "I2", "I3", "I6", "I7", "I10"),
    run=run,
    usual=130,
    usual_short=85,
    plan=Plan(
        workers=4,
        settings_by_service={
            "worker-1": BLOCKABLE_WORKER,
            "worker-2": BLOCKABLE_WORKER,
            "worker-3": LOAD_WORKER,
            "worker-4": LOAD_WORKER,
        },
    ),
)
