"""F17: both gateways stop at once under 1,000 streams, first by SIGTERM and then by SIGKILL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from faults.cluster import Service
from faults.evidence import StreamFilter, StreamLog
from faults.measure import percentile
from faults.scenario import Scenario
from faults.trial import Trial
from faults.watchers import ClientFollower, Follower
from headrace import Client

STREAMS = 1000
# The number of jobs that the streams follow.
JOBS = 20
# Duration of each job, in seconds; the scenario cancels the jobs earlier.
DURATION_S = 400.0
# Interval of the progress reports of each job, in seconds.
PROGRESS_S = 2.0
# Longest time until the last stream resumes, in seconds.
MAX_RESUME_S = 30.0
# Shortest time in which the middle 90 % of the client streams resume, in seconds.
MIN_SPREAD_S = 0.5
# Time until the last events sent by a stopped gateway have arrived, in seconds.
_IN_TRANSIT_S = 0.3


async def run(trial: Trial) -> None:
    await trial.load(rate=20, steady=9)
    followers, jobs = await _open_streams(trial)
    await _restart(trial, followers, Service.terminate, "restarted")
    await asyncio.sleep(5)
    await _restart(trial, followers, Service.kill, "killed")
    async with Client(trial.cluster.targets) as client:
        for job_id in jobs:
            await client.cancel(job_id)
    # A stopping gRPC server ends calls that have no handler yet with a bare CANCELLED.
    trial.expect_codes(only=frozenset({"UNAVAILABLE", "CANCELLED"}))


async def _open_streams(trial: Trial) -> tuple[list[Follower], list[str]]:
    """Open streams with and without the client library; return them and the ids of the jobs."""
    watchers = trial.add_watchers(channels=15)
    for number in range(STREAMS // 2):
        wanted = StreamFilter(labels={"group": str(number % JOBS)})
        watchers.follow(f"stream {number}", wanted)
        if number < STREAMS // 4:
            watchers.follow_with_client(f"client stream {number}", wanted)
    await watchers.wait_until_live(within=60)
    reports = int(DURATION_S / PROGRESS_S)
    async with Client(trial.cluster.targets) as client:
        submitted = [
            await client.submit(
                "work", {"seconds": DURATION_S, "reports": reports}, labels={"group": str(number)}
            )
            for number in range(JOBS)
        ]
    jobs = [job.id for job in submitted]
    for number in range(STREAMS // 8):
        watchers.follow_job(jobs[number % JOBS])
        watchers.follow_job_with_client(jobs[number % JOBS])
    followers = watchers.followers
    trial.log(f"{len(followers)} streams")
    async with asyncio.timeout(30):
        # Each stream has received the submit and the start of a job.
        await asyncio.gather(*(follower.wait_for_events(2) for follower in followers))
    return followers, jobs


async def _restart(
    trial: Trial,
    followers: list[Follower],
    end: Callable[[Service], Awaitable[object]],
    what: str,
) -> None:
    gateways = trial.cluster.gateways
    async with trial.fault(f"both gateways are {what}"):
        await asyncio.gather(*(end(gateway) for gateway in gateways))
        stopped = time.time() + _IN_TRANSIT_S
        # Long enough for each stream to miss at least one event.
        await asyncio.sleep(PROGRESS_S)
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        serving = time.time()
    deadline = serving + MAX_RESUME_S + 15
    while time.time() < deadline and None in (
        times := [_resume_time(f.log, stopped) for f in followers]
    ):
        await asyncio.sleep(0.5)
    resume_times = [moment - serving for moment in times if moment is not None]
    trial.figure(
        f"streams that resumed, gateways {what}", len(resume_times), at_least=len(followers)
    )
    trial.figure(
        "time until the last stream resumed",
        max(resume_times, default=float("nan")),
        "s",
        at_most=MAX_RESUME_S,
    )
    clients = [
        moment
        for follower, moment in zip(followers, times, strict=True)
        if moment is not None and isinstance(follower, ClientFollower)
    ]
    spread = percentile(clients, 0.95) - percentile(clients, 0.05)
    trial.figure("spread of the resume times of client streams", spread, "s", at_least=MIN_SPREAD_S)


def _resume_time(log: StreamLog, stopped: float) -> float | None:
    """Return the time of the first event after the fault; None if there is no event."""
    last = log.shown[-1] if log.shown else None
    if last is None or last.received <= stopped:
        return None
    return next(shown.received for shown in log.shown if shown.received > stopped)


SCENARIO = Scenario(
    id="F17",
    title="both gateways are restarted, then killed, under 1,000 streams",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    usual=45,
    usual_short=45,
)
