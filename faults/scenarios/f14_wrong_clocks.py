"""F14: the clocks of all services differ by 10 to 20 min and jump by an hour."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from faults.clock import unsupported_reason
from faults.cluster import Plan
from faults.evidence import EventRow, Evidence
from faults.load import Mix
from faults.scenario import Scenario
from faults.trial import Trial
from headrace import Client
from headrace_core.domain.lifecycle import EventType

OFFSETS_S = (-600.0, 600.0, 0.0)
JUMP_S = 3600.0
# Jobs that run during each jump, and their duration in seconds.
LONG_JOBS = 20
LONG_JOB_S = 20.0
# Jobs that run past their deadline, and this deadline in seconds after the submit.
DOOMED_JOBS = 20
DEADLINE_S = 5.0
# Longest time from a deadline to the end of its job, in seconds.
MAX_LATENESS_S = 2.0


async def run(trial: Trial) -> None:
    cluster = trial.cluster
    offsets = {
        service.name: offset
        for services in (cluster.gateways, cluster.schedulers, cluster.workers)
        for service, offset in zip(services, OFFSETS_S, strict=False)
    }
    await _set_clocks(trial, offsets, 0.0)
    await trial.load(mix=Mix(scheduled=0.4))
    async with Client(cluster.targets) as client:
        long, doomed = await _submit_long_jobs(client), await _submit_doomed_jobs(client)
        for jump in (JUMP_S, 0.0):
            what = f"clocks jump to {jump:.0f} s above their first offset"
            async with trial.fault(what, recovers_within=30.0):
                await _set_clocks(trial, offsets, jump)
            doomed |= await _submit_doomed_jobs(client)
            await asyncio.sleep(10 if trial.short else 30)
            long |= await _submit_long_jobs(client)
        known = {s.job_id for load in trial.loads for s in load.history if s.job_id}
        # The ids, and therefore the order of the pages, depend on the gateways' clocks.
        listed = [job.id async for job in client.list(page_size=100)]
    trial.figure("jobs missing in ListJobs", len(known - set(listed)), at_most=0)
    trial.figure("jobs repeated in ListJobs", len(listed) - len(set(listed)), at_most=0)
    lost = [await worker.metric("headrace_lease_losses_total") for worker in cluster.workers]
    trial.figure("leases lost", sum(lost), at_most=0)
    trial.on_evidence(lambda evidence: _measure(trial, evidence, long, doomed))


async def _set_clocks(trial: Trial, offsets: dict[str, float], more: float) -> None:
    """Set the offsets of the clocks, one after another."""
    for service in trial.rng.sample(trial.cluster.services, len(trial.cluster.services)):
        assert service.clock is not None
        service.clock.set(offsets[service.name] + more)
        await asyncio.sleep(trial.rng.uniform(0, 0.5))
    # Wait until each process has read its new offset.
    await asyncio.sleep(1.5)


async def _submit_long_jobs(client: Client) -> set[str]:
    handles = [await client.submit("work", {"seconds": LONG_JOB_S}) for _ in range(LONG_JOBS)]
    return {handle.id for handle in handles}


async def _submit_doomed_jobs(client: Client) -> dict[str, datetime]:
    """Submit jobs that run past their deadline; return the deadlines by job id."""
    deadlines = {}
    for _ in range(DOOMED_JOBS):
        deadline = datetime.now(UTC) + timedelta(seconds=DEADLINE_S)
        handle = await client.submit("work", {"seconds": 60}, deadline=deadline)
        deadlines[handle.id] = deadline
    return deadlines


def _measure(trial: Trial, evidence: Evidence, long: set[str], doomed: dict[str, datetime]) -> None:
    lost = [event for event in evidence.events if event.type is EventType.WORKER_LOST]
    trial.figure("jobs lost by a live worker", len(lost), at_most=0)
    history = evidence.by_job()
    # An id contains its creation time by the gateway's clock (RFC 9562, section 5.7).
    wrong = [
        abs((UUID(job_id).int >> 80) / 1000 - events[0].time.timestamp())
        for job_id, events in history.items()
    ]
    trial.figure("largest error of a gateway's clock", max(wrong), "s", at_least=JUMP_S)
    restarted = [job_id for job_id in long if history[job_id][-1].attempt != 1]
    trial.figure("long jobs that started again", len(restarted), at_most=0)
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
    trial.figure(
        "latest end after the deadline",
        max(late, default=float("nan")),
        "s",
        at_most=MAX_LATENESS_S,
    )
    trial.figure(
        "earliest end after the deadline", min(late, default=float("nan")), "s", at_least=0.0
    )


def _unsupported_reason() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return unsupported_reason(Path(folder))


SCENARIO = Scenario(
    id="F14",
    title="the clocks of all services differ by up to 20 min and jump by an hour",
    shows=("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "I10"),
    run=run,
    plan=Plan(clocks=True),
    unsupported=_unsupported_reason,
    usual=115,
    usual_short=110,
)
