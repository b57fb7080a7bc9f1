"""F2: a worker with ten running jobs is suspended for three leases and then resumed."""

from __future__ import annotations

import asyncio
import time

from faults.cluster import Plan
from faults.evidence import Evidence
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace import Client
from headrace_core.domain.lifecycle import EventType

JOBS = 10
# The jobs have their own queue and worker, so that their worker is known.
QUEUE = "held"
LEASES = 3
SHORT_LEASES = 1.5
# Duration of each job, in seconds. Without the fault, all would end during the suspension.
DURATION_S = 8.0
# Longest time until the jobs run elsewhere, and until the late ends are refused, in seconds.
MAX_RETURN_S = 10.0
MAX_REFUSAL_S = 10.0


async def run(trial: Trial) -> None:
    await trial.load(rate=40)
    worker = trial.cluster.workers[0]
    async with Client(trial.cluster.targets) as client:
        submitted = [
            await client.submit("work", {"seconds": DURATION_S}, queue=QUEUE) for _ in range(JOBS)
        ]
    jobs = {job.id for job in submitted}
    claim_seconds = await until(lambda: _have_all_started(trial, jobs), within=5)
    trial.figure("time until the worker runs all jobs", claim_seconds, "s", at_most=5)
    lease = trial.cluster.settings.worker_lease
    async with trial.fault("a worker is suspended"):
        worker.suspend()
        await asyncio.sleep((SHORT_LEASES if trial.short else LEASES) * lease)
        worker.resume()
        resumed = time.time()

    async def all_ends_were_refused() -> bool:
        return await worker.metric("headrace_writes_refused_total", write="finish") >= JOBS

    await until(all_ends_were_refused, within=MAX_REFUSAL_S)
    refused = await worker.metric("headrace_writes_refused_total", write="finish")
    trial.figure("late ends refused", refused, at_least=JOBS, at_most=JOBS)
    losses = await worker.metric("headrace_lease_losses_total")
    trial.figure("lease losses noticed by the worker", losses, at_least=1, at_most=1)
    # Wait until each job has run again and the throughput is measured.
    await asyncio.sleep(DURATION_S + 26)

    def measure(evidence: Evidence) -> None:
        first, restarted = set(), {}
        for event in evidence.events:
            if event.job_id in jobs and event.type is EventType.STARTED:
                if event.attempt == 1:
                    first.add(event.worker_id)
                else:
                    restarted[event.job_id] = event
        trial.figure("jobs that ran again", len(restarted), at_least=JOBS)
        returned = {event.worker_id for event in restarted.values()}
        trial.figure("new ids of the worker", len(returned - first), at_least=1, at_most=1)
        last = max((event.time.timestamp() for event in restarted.values()), default=float("nan"))
        trial.figure(
            "time until the last job started again", last - resumed, "s", at_most=MAX_RETURN_S
        )

    trial.on_evidence(measure)


async def _have_all_started(trial: Trial, jobs: set[str]) -> bool:
    started = {e.job_id for e in await trial.records.events() if e.type is EventType.STARTED}
    return jobs <= started


LOAD_WORKER = {"worker_queues": ("default", "side")}

SCENARIO = Scenario(
    id="F2",
    title=f"a worker with {JOBS} running jobs is suspended for {LEASES} leases, then resumed",
    shows=("I1", "I2", "I3", "I6", "I7"),
    run=run,
    usual=100,
    usual_short=90,
    plan=Plan(
        settings_by_service={
            "worker-1": {"worker_queues": (QUEUE,)},
            "worker-2": LOAD_WORKER,
            "worker-3": LOAD_WORKER,
        }
    ),
)
