"""F13: the leading scheduler is suspended and then resumed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime

from faults.cluster import Service
from faults.evidence import Evidence
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace import Client, JobSpec
from headrace_core.domain.lifecycle import EventType

SUSPENDED_S = 30.0
SHORT_SUSPENDED_S = 15.0
# The number of jobs due while the leader is suspended, and at the moment it is resumed.
DUE_JOBS = 500
LATER_DUE_JOBS = 100
# Time from the submit to the start of the fault, in seconds.
LEAD_TIME_S = 10.0
# Longest time until another scheduler leads, in seconds.
MAX_TAKEOVER_S = 20.0


async def run(trial: Trial) -> None:
    await trial.load(rate=30)
    [leader] = [one for one in trial.cluster.schedulers if await _is_leading(one)]
    [standby] = [one for one in trial.cluster.schedulers if one is not leader]
    first_term = await leader.metric("headrace_leader_term")
    suspended = time.time() + LEAD_TIME_S
    resumed = suspended + (SHORT_SUSPENDED_S if trial.short else SUSPENDED_S)
    first = await _submit_due_jobs(trial, DUE_JOBS, due=suspended + 1)
    second = await _submit_due_jobs(trial, LATER_DUE_JOBS, due=resumed)
    await asyncio.sleep(suspended - time.time())
    async with trial.fault("the leader is suspended", recovers_within=30):
        leader.suspend()
        takeover = await until(lambda: _is_leading(standby), within=MAX_TAKEOVER_S + 5)
        trial.figure("time until another scheduler leads", takeover, "s", at_most=MAX_TAKEOVER_S)
        await asyncio.sleep(resumed - time.time())
        leader.resume()
    noticed = await until(lambda: _was_refused(leader), within=15)
    trial.figure("time until the old leader notices", noticed, "s", at_most=5)
    refused = await leader.metric("headrace_stale_writes_refused_total")
    trial.figure("refused writes of the old leader", refused, at_least=1)
    leading = sum([await _is_leading(leader), await _is_leading(standby)])
    trial.figure("leading schedulers", leading, at_least=1, at_most=1)
    terms = await standby.metric("headrace_leader_term") - first_term
    trial.figure("new terms", terms, at_least=1)
    await asyncio.sleep(5)

    def measure(evidence: Evidence) -> None:
        runs = Counter(run.job_id for run in evidence.ledger)
        due = first | second
        trial.figure(
            "due jobs that ran once", sum(runs[job] == 1 for job in due), at_least=len(due)
        )
        trial.figure("due jobs that ran twice", sum(runs[job] > 1 for job in due), at_most=0)
        late = [
            event.time.timestamp() - (suspended + 1)
            for event in evidence.events
            if event.job_id in first and event.type is EventType.STARTED
        ]
        trial.figure("longest delay of a due job", max(late), "s", at_most=MAX_TAKEOVER_S)

    trial.on_evidence(measure)


async def _submit_due_jobs(trial: Trial, count: int, *, due: float) -> set[str]:
    """Submit jobs with a due time, in seconds since 1970, and return their ids."""
    at = datetime.fromtimestamp(due, UTC)
    async with Client(trial.cluster.targets) as client:
        batch = await client.submit_many(
            [JobSpec("work", {"seconds": 0.02}, schedule_time=at) for _ in range(count)]
        )
    return {job.id for job in batch}


async def _is_leading(scheduler: Service) -> bool:
    return await scheduler.metric("headrace_leading") == 1


async def _was_refused(scheduler: Service) -> bool:
    return await scheduler.metric("headrace_stale_writes_refused_total") > 0


SCENARIO = Scenario(
    id="F13",
    title="the leading scheduler is suspended for 30 s while 500 jobs become due",
    shows=("I1", "I2", "I3", "I4", "I5", "I7", "I10"),
    run=run,
    usual=65,
    usual_short=65,
)
