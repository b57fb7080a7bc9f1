"""A: jobs drained per second.

The time runs from the first handled job until the contestant's own records contain no unfinished
job. It excludes the start of the workers, and includes writing the results.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from bench.compare.measurement import Measurement
from bench.compare.plan import Plan
from bench.compare.process import PeerFailedError
from bench.compare.stage import Stage
from bench.peers.contract import THROUGHPUT

MODE: Final = THROUGHPUT
# Jobs per fill request. The harness checks the time limit between requests.
_JOBS_PER_FILL: Final = 10_000
_SLOW_JOBS_PER_FILL: Final = 1_000
_REQUEST_TIMEOUT_S: Final = 120.0
# Seconds between reads of the counters, and between requests for the number of unfinished jobs.
_COUNTERS_EVERY_S: Final = 0.01
_UNFINISHED_EVERY_S: Final = 0.005
# Longest wait for the first handled job, and for the records of all ends after the last one, in
# seconds.
_FIRST_JOB_TIMEOUT_S: Final = 60.0
_RECORD_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """The result of one drain.

    Args:
        jobs: the number of handled jobs.
        handled_s: seconds from the first handled job to the last one.
        recorded_s: seconds from the first handled job until all ends are recorded.
        whole: True if all jobs were handled within the time limit.
    """

    jobs: int
    handled_s: float
    recorded_s: float
    whole: bool


def case(jobs: int, workers: int) -> str:
    """Return the name of a measurement; slow contestants get fewer jobs, which a note reports."""
    return f"{jobs:,} jobs, {workers} worker{'s' if workers > 1 else ''}"


async def measure_drain(
    stage: Stage, *, plan: Plan, jobs: int, workers: int, number: int
) -> Measurement:
    """Create waiting jobs, start workers, and wait until the jobs have ended.

    Args:
        stage: a stage without workers.
        plan: the time limits.
        jobs: the number of jobs; slow contestants receive fewer.
        workers: the number of worker processes.
        number: the round number.
    """
    wanted = min(jobs, plan.slow_jobs) if stage.contestant.slow else jobs
    filled = await fill(stage, wanted, limit=plan.fill_limit)
    async with stage.workers(workers):
        meter = stage.meter()
        start, counted = await _wait_for_first(stage)
        before = meter.sample()
        drain = await _wait_for_end(stage, jobs=filled, start=start, limit=plan.drain_limit)
        cpu = before.microseconds_each(meter.sample(), max(1, drain.jobs - counted))
    notes = []
    if filled != jobs:
        notes.append(f"{filled:,} jobs")
    if not drain.whole:
        notes.append(f"the first {drain.jobs:,} in {drain.recorded_s:.0f} s")
    return Measurement(
        figure="A",
        contestant=stage.contestant.name,
        case=case(jobs, workers),
        round=number,
        values={
            "jobs": drain.jobs,
            "jobs_per_s": drain.jobs / drain.recorded_s,
            "handled_per_s": drain.jobs / drain.handled_s,
        },
        cpu=cpu,
        note=", ".join(notes),
    )


async def fill(stage: Stage, jobs: int, *, limit: float) -> int:
    """Create waiting jobs in parts for at most `limit` seconds; return their number."""
    start, filled = time.monotonic(), 0
    while filled < jobs and (not filled or time.monotonic() - start < limit):
        part = min(_SLOW_JOBS_PER_FILL if stage.contestant.slow else _JOBS_PER_FILL, jobs - filled)
        await stage.control.ask("fill", timeout=_REQUEST_TIMEOUT_S, count=part)
        filled += part
    return filled


async def _wait_for_first(stage: Stage) -> tuple[float, int]:
    """Wait for the first handled job; return its time and the number of jobs handled so far."""
    deadline = time.monotonic() + _FIRST_JOB_TIMEOUT_S
    while not (count := stage.counters.read()).handled:
        if time.monotonic() > deadline:
            raise PeerFailedError(f"the workers handled no job within {_FIRST_JOB_TIMEOUT_S:g} s")
        await asyncio.sleep(_COUNTERS_EVERY_S)
    return count.first, count.handled


async def _wait_for_end(stage: Stage, *, jobs: int, start: float, limit: float) -> Drain:
    while True:
        count, now = stage.counters.read(), time.monotonic()
        if count.handled >= jobs:
            break
        if now - start > limit:
            seconds = now - start
            return Drain(jobs=count.handled, handled_s=seconds, recorded_s=seconds, whole=False)
        await asyncio.sleep(_COUNTERS_EVERY_S)
    deadline = time.monotonic() + _RECORD_TIMEOUT_S
    while True:
        request_time = time.monotonic()
        response = await stage.control.ask("unfinished", timeout=_REQUEST_TIMEOUT_S)
        if not response["jobs"]:
            break
        if request_time > deadline:
            raise PeerFailedError(
                f"all {jobs:,} jobs were handled, but {response['jobs']:,} are still unfinished in "
                f"the contestant's records after {_RECORD_TIMEOUT_S:g} s"
            )
        await asyncio.sleep(_UNFINISHED_EVERY_S)
    count = stage.counters.read()
    return Drain(
        jobs=jobs,
        handled_s=count.last - start,
        # If the first response is 0, all ends were recorded before the request.
        recorded_s=max(request_time, count.last) - start,
        whole=True,
    )
