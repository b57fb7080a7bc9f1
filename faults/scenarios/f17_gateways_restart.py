"""F17: both gateways go away at once under 1,000 streams, in order first and then by SIGKILL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from faults.cluster import Service
from faults.evidence import StreamLog, Wanted
from faults.measure import percentile
from faults.scenario import Scenario
from faults.trial import Trial
from faults.watchers import ClientFollower, Follower
from headrace import Client

STREAMS = 1000
# They follow this many jobs, which tell their progress this often, in seconds, until the end: at
# most for so long.
JOBS = 20
LASTING_S = 400.0
TELLING_S = 2.0
# Seconds.
RESUMED_S = 30.0
SPREAD_S = 0.5
# What a gateway had sent before it went may still be on its way.
_ON_ITS_WAY_S = 0.3


async def run(trial: Trial) -> None:
    await trial.load(rate=20, steady=9)
    crowd, jobs = await _open_streams(trial)
    await _restart(trial, crowd, Service.terminate, "restarted")
    await asyncio.sleep(5)
    await _restart(trial, crowd, Service.kill, "killed")
    async with Client(trial.cluster.targets) as client:
        for job_id in jobs:
            await client.cancel(job_id)
    # Bare CANCELLED is how gRPC's server ends calls that it had not handed over when it stopped.
    trial.codes(at_most=frozenset({"UNAVAILABLE", "CANCELLED"}))


async def _open_streams(trial: Trial) -> tuple[list[Follower], list[str]]:
    """A crowd, over jobs and filters, with the client and without; and the ids of its jobs."""
    watchers = trial.more_watchers(channels=5)
    for number in range(STREAMS // 2):
        wanted = Wanted(labels={"crowd": str(number % JOBS)})
        watchers.follow(f"crowd {number}", wanted)
        if number < STREAMS // 4:
            watchers.follow_with_client(f"client's crowd {number}", wanted)
    await watchers.are_live(within=60)
    reports = int(LASTING_S / TELLING_S)
    async with Client(trial.cluster.targets) as client:
        submitted = [
            await client.submit(
                "work", {"seconds": LASTING_S, "reports": reports}, labels={"crowd": str(number)}
            )
            for number in range(JOBS)
        ]
    jobs = [job.id for job in submitted]
    for number in range(STREAMS // 8):
        watchers.follow_job(jobs[number % JOBS])
        watchers.follow_job_with_client(jobs[number % JOBS])
    crowd = watchers.followers
    trial.say(f"{len(crowd)} streams")
    async with asyncio.timeout(30):
        # Each one has shown how its job was submitted and started.
        await asyncio.gather(*(follower.has_shown(2) for follower in crowd))
    return crowd, jobs


async def _restart(
    trial: Trial,
    crowd: list[Follower],
    end: Callable[[Service], Awaitable[None]],
    what: str,
) -> None:
    gateways = trial.cluster.gateways
    async with trial.fault(f"both gateways are {what}"):
        await asyncio.gather(*(end(gateway) for gateway in gateways))
        gone = time.time() + _ON_ITS_WAY_S
        # Long enough that each stream misses something.
        await asyncio.sleep(TELLING_S)
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        served = time.time()
    deadline = served + RESUMED_S + 15
    while time.time() < deadline and None in (times := [_resumed(f.log, gone) for f in crowd]):
        await asyncio.sleep(0.5)
    back = [moment - served for moment in times if moment is not None]
    trial.figure(f"streams resumed when {what}", len(back), at_least=len(crowd))
    trial.figure("the last one after", max(back, default=float("nan")), "s", at_most=RESUMED_S)
    clients = [
        moment
        for follower, moment in zip(crowd, times, strict=True)
        if moment is not None and isinstance(follower, ClientFollower)
    ]
    spread = percentile(clients, 0.95) - percentile(clients, 0.05)
    trial.figure("the client's spread over", spread, "s", at_least=SPREAD_S)


def _resumed(log: StreamLog, gone: float) -> float | None:
    """When a stream has shown something again."""
    last = log.shown[-1] if log.shown else None
    if last is None or last.received <= gone:
        return None
    return next(shown.received for shown in log.shown if shown.received > gone)


SCENARIO = Scenario(
    id="F17",
    title="both gateways are restarted, and then killed, under 1,000 streams",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    usual=45,
    usual_short=45,
)
