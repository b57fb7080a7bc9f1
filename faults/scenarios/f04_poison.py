"""F4: jobs that kill their process, among a thousand good jobs."""

from __future__ import annotations

import asyncio
from typing import get_args

from faults.evidence import Evidence, JobRow
from faults.poison import Cause
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace import Client
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.retry import LOSSES_BEFORE_OWN_PROCESS

# The number of poison jobs of each kind, and the number of good jobs.
JOBS_PER_KIND = 3
GOOD_JOBS = 1000
SHORT_GOOD_JOBS = 500
# Each poison job that runs alone in a worker costs two workers and their leases of 15 s.
MAX_DRAIN_S = 240.0
MAX_RECOVERY_S = 30.0


async def run(trial: Trial) -> None:
    workers = trial.cluster.workers
    trial.supervise(workers)
    load = await trial.load(rate=40.0)
    async with trial.fault("poison", recovers_within=MAX_RECOVERY_S):
        async with Client(trial.cluster.targets) as client:
            jobs = [("poison", {"cause": cause}) for cause in get_args(Cause)] * (
                1 if trial.short else JOBS_PER_KIND
            )
            # The schema accepts these payloads, but the handler type rejects them.
            jobs += [("even", {"number": 2 * number + 1}) for number in range(JOBS_PER_KIND)]
            trial.rng.shuffle(jobs)
            for job_type, payload in jobs:
                await client.submit(job_type, payload)
                await asyncio.sleep(trial.rng.uniform(0, 1))
        trial.figure(
            "time until all poison jobs ended",
            await until(lambda: _have_poison_jobs_ended(trial), within=MAX_DRAIN_S),
            "s",
            at_most=MAX_DRAIN_S,
        )
    while len(load.history) < (SHORT_GOOD_JOBS if trial.short else GOOD_JOBS):
        await asyncio.sleep(0.5)
    await asyncio.sleep(MAX_RECOVERY_S + 4)
    died = sum(worker.restarts for worker in workers)
    trial.figure("workers that died", died, at_least=LOSSES_BEFORE_OWN_PROCESS)
    poison = len(jobs) - JOBS_PER_KIND
    trial.on_evidence(lambda evidence: _measure(trial, evidence, poison))


async def _have_poison_jobs_ended(trial: Trial) -> bool:
    return await trial.records.unfinished(job_type="poison") == 0


def _measure(trial: Trial, evidence: Evidence, poison: int) -> None:
    histories = evidence.by_job()

    def jobs_of(job_type: str) -> list[JobRow]:
        return [job for job in evidence.jobs.values() if job.type == job_type]

    def losses(job: JobRow) -> int:
        return sum(event.type is EventType.WORKER_LOST for event in histories[job.id])

    ended = [
        job
        for job in jobs_of("poison")
        if job.state is JobState.FAILED and histories[job.id][-1].type is EventType.WORKER_LOST
    ]
    trial.figure("poison jobs that ended as FAILED, WORKER_LOST", len(ended), at_least=poison)
    limit = trial.cluster.settings.max_worker_losses
    charged = [job.worker_losses for job in ended]
    trial.figure("losses charged to each poison job, at least", min(charged), at_least=limit + 1)
    trial.figure("losses charged to each poison job, at most", max(charged), at_most=limit + 1)
    # If another job kills the worker, a job loses an attempt but none of its crash budget.
    trial.figure("workers lost by each poison job, at most", max(map(losses, ended)))
    undecodable_ends = [
        job
        for job in jobs_of("even")
        if histories[job.id][-1].type is EventType.FAILED
        # A poison job in the same worker may have interrupted it first.
        and not any(event.type is EventType.RETRY_SCHEDULED for event in histories[job.id])
    ]
    trial.figure(
        "undecodable jobs that FAILED without a retry",
        len(undecodable_ends),
        at_least=JOBS_PER_KIND,
    )
    good = jobs_of("work")
    trial.figure("good jobs", len(good), at_least=SHORT_GOOD_JOBS if trial.short else GOOD_JOBS)
    trial.figure(
        "good jobs that did not succeed",
        sum(job.state is not JobState.SUCCEEDED for job in good),
        at_most=0,
    )
    trial.figure("good jobs that lost a worker", sum(losses(job) > 0 for job in good))
    trial.figure(
        "good jobs that ran in their own process",
        sum(losses(job) >= LOSSES_BEFORE_OWN_PROCESS for job in good),
    )


SCENARIO = Scenario(
    id="F4",
    title="jobs that kill their process (os._exit, SIGSEGV, no memory, SIGKILL) among good jobs",
    shows=("I1", "I2", "I3", "I6", "I7", "I10"),
    run=run,
    usual=100,
    usual_short=90,
)
