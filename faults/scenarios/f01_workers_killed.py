"""F1: a worker is killed every five seconds and restarted by a supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from itertools import pairwise

from faults.evidence import Evidence
from faults.load import Mix
from faults.scenario import Scenario
from faults.trial import Trial
from headrace_core.domain.lifecycle import EventType, JobState

INTERVAL_S = 5.0
DURATION_S = 60.0
SHORT_DURATION_S = 20.0
# Jobs last long enough that each killed worker is running some.
MIX = Mix(seconds=(0.2, 2.0))
# Longest time until a lost attempt is claimed again, and longest recovery, in seconds.
MAX_RECLAIM_S = 25.0
MAX_RECOVERY_S = 30.0


async def run(trial: Trial) -> None:
    trial.supervise(trial.cluster.workers)
    await trial.load(rate=40.0, mix=MIX)
    # The time at which each process was killed, by pid, in seconds since 1970.
    killed: dict[int, float] = {}
    async with trial.fault("workers are killed", recovers_within=MAX_RECOVERY_S):
        end = time.monotonic() + (SHORT_DURATION_S if trial.short else DURATION_S)
        while time.monotonic() < end:
            worker = trial.rng.choice(trial.cluster.workers)
            # A worker that was killed earlier may still be restarting.
            if worker.running and worker.pid not in killed:
                killed[worker.pid] = time.time()
                os.kill(worker.pid, signal.SIGKILL)
            await asyncio.sleep(INTERVAL_S)
    await asyncio.sleep(MAX_RECOVERY_S + 4)
    pids = await trial.records.worker_pids()
    trial.on_evidence(lambda evidence: _measure(trial, evidence, killed, pids))


def _measure(
    trial: Trial, evidence: Evidence, killed: dict[int, float], pids: dict[str, int]
) -> None:
    orphaned, lost_twice, waits = 0, 0, [0.0]
    for history in evidence.by_job().values():
        losses = 0
        starts = [event for event in history if event.type is EventType.STARTED]
        lost = {event.attempt for event in history if event.type is EventType.WORKER_LOST}
        for start, following in pairwise(starts):
            if start.attempt in lost:
                losses += 1
                # On a stalling machine, a worker may lose its lease without being killed.
                kill_time = killed.get(pids[start.worker_id], start.time.timestamp())
                waits.append(following.time.timestamp() - kill_time)
        orphaned += losses
        lost_twice += losses > 1
    least = (SHORT_DURATION_S if trial.short else DURATION_S) / INTERVAL_S / 2
    trial.figure("workers killed", len(killed), at_least=least)
    trial.figure("attempts lost with a worker", orphaned, at_least=1)
    trial.figure("jobs that lost more than one worker", lost_twice)
    trial.figure("longest time to the next claim", max(waits), "s", at_most=MAX_RECLAIM_S)
    states = [job.state for job in evidence.jobs.values()]
    trial.figure("failed jobs", states.count(JobState.FAILED), at_most=0)


SCENARIO = Scenario(
    id="F1",
    title=f"a worker is killed every {INTERVAL_S:g} s for {DURATION_S:g} s",
    shows=("I1", "I2", "I3", "I6", "I7", "I10"),
    run=run,
    usual=120,
    usual_short=110,
)
