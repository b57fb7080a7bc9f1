"""F32: handlers that attack shared resources, among a thousand good jobs."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import msgspec

from faults.cluster import Plan
from faults.evidence import Evidence
from faults.load import Mix
from faults.misbehaving import HARMLESS, Attack, Child, LoopAttack, ProcessAttack
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace import Client
from headrace_core.domain.lifecycle import EventType, JobState

JOBS_PER_KIND = 3
GOOD_JOBS = 1000
SHORT_GOOD_JOBS = 500
MAX_DRAIN_S = 120.0
MAX_RECOVERY_S = 10.0
ATTACKS_BY_TYPE = {
    "misbehaving.loop": LoopAttack,
    "misbehaving.thread": Attack,
    "misbehaving.process": ProcessAttack,
}

_decode_children = msgspec.json.Decoder(list[Child]).decode


async def run(trial: Trial) -> None:
    workers = trial.cluster.workers
    trial.supervise(workers)
    # Good jobs never fail by themselves, so only a misbehaving handler can cost one an attempt.
    load = await trial.load(rate=40.0, mix=Mix(failing=0.0))
    async with trial.fault("misbehaving handlers", recovers_within=MAX_RECOVERY_S):
        async with Client(trial.cluster.targets) as client:
            jobs = [
                (job_type, attack)
                for job_type, attacks in ATTACKS_BY_TYPE.items()
                for attack in _attack_names(attacks)
                for _ in range(1 if trial.short else JOBS_PER_KIND)
            ]
            trial.rng.shuffle(jobs)
            for job_type, attack in jobs:
                await client.submit(job_type, {"attack": attack}, labels={"attack": attack})
                await asyncio.sleep(trial.rng.uniform(0, 0.5))
        trial.figure(
            "time until all misbehaving jobs ended",
            await until(lambda: _have_misbehaving_jobs_ended(trial), within=MAX_DRAIN_S),
            "s",
            at_most=MAX_DRAIN_S,
        )
        leftover = [child for child in await _leftover_children(trial) if child.is_running]
        trial.figure("children that outlived their attempt", len(leftover), at_most=0)
    while len(load.history) < (SHORT_GOOD_JOBS if trial.short else GOOD_JOBS):
        await asyncio.sleep(0.5)
    await asyncio.sleep(MAX_RECOVERY_S + 4)
    trial.figure("workers that ended", sum(worker.restarts for worker in workers), at_most=0)
    trial.on_evidence(lambda evidence: _measure(trial, evidence, len(jobs)))


def _attack_names(attacks: Any) -> list[str]:
    return list(get_args(attacks))


async def _have_misbehaving_jobs_ended(trial: Trial) -> bool:
    waiting = [await trial.records.unfinished(job_type=job_type) for job_type in ATTACKS_BY_TYPE]
    return not any(waiting)


async def _leftover_children(trial: Trial) -> list[Child]:
    return [
        child
        for job in (await trial.records.jobs()).values()
        if job.type in ATTACKS_BY_TYPE and job.result is not None
        for child in _decode_children(job.result)
    ]


def _measure(trial: Trial, evidence: Evidence, submitted: int) -> None:
    misbehaving = [job for job in evidence.jobs.values() if job.type in ATTACKS_BY_TYPE]
    wrong = [
        f"{job.type} {job.labels['attack']}"
        for job in misbehaving
        if (job.state is JobState.SUCCEEDED) != (job.labels["attack"] in HARMLESS)
    ]
    trial.figure("misbehaving jobs", len(misbehaving), at_least=submitted)
    trial.figure(
        f"misbehaving jobs with an unexpected end{': ' if wrong else ''}{', '.join(wrong)}",
        len(wrong),
        at_most=0,
    )
    good = [job for job in evidence.jobs.values() if job.type == "work"]
    trial.figure("good jobs", len(good), at_least=SHORT_GOOD_JOBS if trial.short else GOOD_JOBS)
    trial.figure(
        "good jobs that did not succeed",
        sum(job.state is not JobState.SUCCEEDED for job in good),
        at_most=0,
    )
    trial.figure(
        "good jobs with more than one attempt", sum(job.attempt != 1 for job in good), at_most=0
    )
    of_good = {job.id for job in good}
    trial.figure(
        "interruptions of good jobs",
        sum(
            event.type is EventType.INTERRUPTED
            for event in evidence.events
            if event.job_id in of_good
        ),
        at_most=0,
    )


SCENARIO = Scenario(
    id="F32",
    title="handlers that fork, use pools, exit in subtasks, cancel other tasks, close descriptors",
    shows=("I1", "I2", "I3"),
    run=run,
    plan=Plan(workers=2),
    usual=65,
    usual_short=60,
)
