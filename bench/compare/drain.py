"""A: how soon waiting jobs are done.

The time is from the moment when the first job was handled, by its handler, to the moment when none
is unfinished any more by the contestant's own records. So the start of workers is left out, and the
writing of results is not.
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
# How many jobs are put in by one request, so that there is a moment to stop at.
_PART: Final = 10_000
_SLOW_PART: Final = 1_000
_REQUEST_S: Final = 120.0
_LOOK_EVERY: Final = 0.01
_ASK_EVERY: Final = 0.005
# How long it may take until the first job is handled, and from the last to the end, in seconds.
_FIRST_S: Final = 60.0
_RECORDED_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How it went.

    Args:
        jobs: how many were done.
        handled_s: seconds from the first to the last that was handled.
        recorded_s: seconds from the first that was handled until all are recorded.
        whole: whether none was left.
    """

    jobs: int
    handled_s: float
    recorded_s: float
    whole: bool


def case(jobs: int, workers: int) -> str:
    """The name of a measurement; what slow contestants are given is told beside it."""
    return f"{jobs:,} jobs, {workers} worker{'s' if workers > 1 else ''}"


async def measure_drain(
    stage: Stage, *, plan: Plan, jobs: int, workers: int, number: int
) -> Measurement:
    """Puts jobs in, starts workers, and waits for the end.

    Args:
        stage: has no workers.
        plan: says how long at most.
        jobs: how many; the slow ones get fewer.
        workers: how many processes.
        number: of the round.
    """
    wanted = min(jobs, plan.slow_jobs) if stage.contestant.slow else jobs
    filled = await fill(stage, wanted, limit=plan.fill_limit)
    async with stage.workers(workers):
        meter = stage.meter()
        begun, counted = await _first(stage)
        before = meter.sample()
        drain = await _rest(stage, jobs=filled, begun=begun, limit=plan.drain_limit)
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
    """Puts waiting jobs in, in parts, for some seconds at most; returns how many."""
    began, filled = time.monotonic(), 0
    while filled < jobs and (not filled or time.monotonic() - began < limit):
        part = min(_SLOW_PART if stage.contestant.slow else _PART, jobs - filled)
        await stage.control.ask("fill", timeout=_REQUEST_S, count=part)
        filled += part
    return filled


async def _first(stage: Stage) -> tuple[float, int]:
    """Waits for the first job; returns when it was handled, and how many are handled now."""
    deadline = time.monotonic() + _FIRST_S
    while not (count := stage.counters.read()).handled:
        if time.monotonic() > deadline:
            raise PeerFailedError(f"its workers have handled nothing in {_FIRST_S:g} s")
        await asyncio.sleep(_LOOK_EVERY)
    return count.first, count.handled


async def _rest(stage: Stage, *, jobs: int, begun: float, limit: float) -> Drain:
    while True:
        count, now = stage.counters.read(), time.monotonic()
        if count.handled >= jobs:
            break
        if now - begun > limit:
            seconds = now - begun
            return Drain(jobs=count.handled, handled_s=seconds, recorded_s=seconds, whole=False)
        await asyncio.sleep(_LOOK_EVERY)
    deadline = time.monotonic() + _RECORDED_S
    while True:
        asked = time.monotonic()
        answer = await stage.control.ask("unfinished", timeout=_REQUEST_S)
        if not answer["jobs"]:
            break
        if asked > deadline:
            raise PeerFailedError(
                f"{answer['jobs']:,} of {jobs:,} jobs were handled and are unfinished by its own "
                f"records after {_RECORDED_S:g} s more"
            )
        await asyncio.sleep(_ASK_EVERY)
    count = stage.counters.read()
    return Drain(
        jobs=jobs,
        handled_s=count.last - begun,
        # When the first answer said so, all was recorded by the time of the question at the latest.
        recorded_s=max(asked, count.last) - begun,
        whole=True,
    )
