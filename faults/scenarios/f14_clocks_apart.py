"""F14: the clocks of workers, schedulers and gateways are 10 min apart, and jump by an hour."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from faults.clock import why_not
from faults.cluster import Plan
from faults.evidence import EventRow, Evidence
from faults.load import Mix
from faults.scenario import Scenario
from faults.trial import Trial
from headrace import Client
from headrace_core.domain.lifecycle import EventType

APART_S = (-600.0, 600.0, 0.0)
JUMP_S = 3600.0
# Jobs that run through each jump; and such that must end at their deadline.
LONG = 20
LONG_S = 20.0
DOOMED = 20
DEADLINE_S = 5.0
# By how much a job may run past its deadline, and end before it.
LATE_S = 2.0


async def run(trial: Trial) -> None:
    cluster = trial.cluster
    apart = {
        service.name: wrong
        for services in (cluster.gateways, cluster.schedulers, cluster.workers)
        for service, wrong in zip(services, APART_S, strict=False)
    }
    await _set(trial, apart, 0.0)
    await trial.load(mix=Mix(later=0.4))
    async with Client(cluster.targets) as client:
        long, doomed = await _long(client), await _doomed(client)
        for jump in (JUMP_S, 0.0):
            what = f"clocks jump to {jump:.0f} s more than they were wrong by before"
            async with trial.fault(what, recovers_within=30.0):
                await _set(trial, apart, jump)
            doomed |= await _doomed(client)
            await asyncio.sleep(10 if trial.short else 30)
            long |= await _long(client)
        known = {s.job_id for load in trial.loads for s in load.history if s.job_id}
        # Their ids are of the gateways' clocks, and so is the order of the pages.
        listed = [job.id async for job in client.list(page_size=100)]
    trial.figure("jobs that no page of ListJobs has", len(known - set(listed)), at_most=0)
    trial.figure("jobs that several have", len(listed) - len(set(listed)), at_most=0)
    lost = [await worker.metric("headrace_lease_losses_total") for worker in cluster.workers]
    trial.figure("leases lost", sum(lost), at_most=0)
    trial.afterwards(lambda evidence: _measure(trial, evidence, long, doomed))


async def _set(trial: Trial, apart: dict[str, float], more: float) -> None:
    """Makes each clock as wrong as it shall be, one after the other."""
    for service in trial.chance.sample(trial.cluster.services, len(trial.cluster.services)):
        assert service.clock is not None
        service.clock.set(apart[service.name] + more)
        await asyncio.sleep(trial.chance.uniform(0, 0.5))
    # Until each of them has read it.
    await asyncio.sleep(1.5)


async def _long(client: Client) -> set[str]:
    handles = [await client.submit("work", {"seconds": LONG_S}) for _ in range(LONG)]
    return {handle.id for handle in handles}


async def _doomed(client: Client) -> dict[str, datetime]:
    """Jobs that would run for far longer than their deadline, by the harness's right clock."""
    deadlines = {}
    for _ in range(DOOMED):
        deadline = datetime.now(UTC) + timedelta(seconds=DEADLINE_S)
        handle = await client.submit("work", {"seconds": 60}, deadline=deadline)
        deadlines[handle.id] = deadline
    return deadlines


def _measure(trial: Trial, evidence: Evidence, long: set[str], doomed: dict[str, datetime]) -> None:
    lost = [event for event in evidence.events if event.type is EventType.WORKER_LOST]
    trial.figure("jobs taken from a live worker", len(lost), at_most=0)
    history = evidence.by_job()
    # An id has the time of its making by the clock of its gateway (RFC 9562, section 5.7).
    wrong = [
        abs((UUID(job_id).int >> 80) / 1000 - events[0].time.timestamp())
        for job_id, events in history.items()
    ]
    trial.figure("gateways were wrong by up to", max(wrong), "s", at_least=JUMP_S)
    again = [job_id for job_id in long if history[job_id][-1].attempt != 1]
    trial.figure("long jobs that were begun again", len(again), at_most=0)
    expired: Sequence[EventRow] = [
        event for event in evidence.events if event.type is EventType.EXPIRED
    ]
    trial.figure(
        "jobs that ended at their deadline",
        len({event.job_id for event in expired} & set(doomed)),
        at_least=len(doomed),
    )
    others = {event.job_id for event in expired} - set(doomed)
    trial.figure("jobs that expired without a deadline", len(others), at_most=0)
    late = [
        (event.time - doomed[event.job_id]).total_seconds()
        for event in expired
        if event.job_id in doomed
    ]
    trial.figure("the last one after it by", max(late, default=float("nan")), "s", at_most=LATE_S)
    trial.figure("the first one by", min(late, default=float("nan")), "s", at_least=0.0)


def _cannot() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return why_not(Path(folder))


SCENARIO = Scenario(
    id="F14",
    title="clocks of all services up to 20 min apart, and jumps of an hour",
    shows=("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "I10"),
    run=run,
    plan=Plan(clocks=True),
    cannot=_cannot,
    usual=115,
    usual_short=110,
)
