"""F23: every process is terminated and restarted, one after the other."""

from __future__ import annotations

import asyncio
import time

from faults.evidence import Evidence, Outcome, StreamFilter
from faults.load import Mix
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace import Client
from headrace_core.domain.lifecycle import EventType

STREAMS = 100
# Extra jobs that start before each restart. They outlast the shutdown grace period.
LONG_JOBS = 10
LONG_JOB_S = 30.0
# Longest time from the end of the grace period to the exit of a process, in seconds.
MAX_EXIT_S = 2.0
# Pause after each restart, in seconds.
PAUSE_S = 5.0
MAX_RECOVERY_S = 30.0


async def run(trial: Trial) -> None:
    watchers = trial.add_watchers(channels=4)
    for number in range(STREAMS // 2):
        watchers.follow(f"stream {number}", StreamFilter(labels={"shard": str(number % 4)}))
        watchers.follow_with_client(f"client stream {number}", StreamFilter(queues=("side",)))
    await watchers.wait_until_live(within=60)
    # No job fails by itself, so only an interruption can cause another attempt.
    await trial.load(rate=40, mix=Mix(failing=0.0))
    jobs: set[str] = set()
    grace = trial.cluster.settings.shutdown_grace
    durations: dict[str, float] = {}
    codes = []
    async with (
        Client(trial.cluster.targets) as client,
        trial.fault("every process is restarted", recovers_within=MAX_RECOVERY_S),
    ):
        for service in trial.cluster.services:
            for _ in range(LONG_JOBS):
                job = await client.submit("work", {"seconds": LONG_JOB_S}, labels={"shard": "0"})
                jobs.add(job.id)
            await until(lambda: _have_all_started(trial, jobs), within=PAUSE_S)
            terminated = time.monotonic()
            codes.append(await service.terminate())
            durations[service.name] = time.monotonic() - terminated
            await service.start()
            await asyncio.sleep(PAUSE_S)
    for kind in ("gateway", "scheduler", "worker"):
        longest = max(time for name, time in durations.items() if name.startswith(kind))
        trial.figure(f"shutdown time of a {kind}", longest, "s", at_most=grace + MAX_EXIT_S)
    trial.figure("processes with a nonzero exit code", sum(map(bool, codes)), at_most=0)
    await asyncio.sleep(MAX_RECOVERY_S + 4)
    # While it stops, a gRPC server ends calls without a handler with a bare CANCELLED.
    trial.expect_codes(only=frozenset({"UNAVAILABLE", "CANCELLED"}))

    def measure(evidence: Evidence) -> None:
        kinds = [event.type for event in evidence.events]
        interrupted = sum(
            event.type is EventType.INTERRUPTED for event in evidence.events if event.job_id in jobs
        )
        trial.figure("long jobs interrupted", interrupted, at_least=1)
        failed = sum(one.outcome is not Outcome.OK for one in evidence.submissions)
        trial.figure("submits that failed despite retries", failed, at_most=0)
        trial.figure("retries used", kinds.count(EventType.RETRY_SCHEDULED), at_most=0)
        trial.figure("workers lost", kinds.count(EventType.WORKER_LOST), at_most=0)

    trial.on_evidence(measure)


async def _have_all_started(trial: Trial, jobs: set[str]) -> bool:
    started = {e.job_id for e in await trial.records.events() if e.type is EventType.STARTED}
    return jobs <= started


SCENARIO = Scenario(
    id="F23",
    title=f"every process is restarted in turn, with {STREAMS} streams and jobs of "
    f"{LONG_JOB_S:g} s",
    shows=("I1", "I2", "I3", "I4", "I6", "I7", "I10"),
    run=run,
    usual=130,
    usual_short=130,
    timeout=900.0,
)
