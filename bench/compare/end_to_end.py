"""D: a client submits jobs while workers run, and watches until it knows all ends."""

from __future__ import annotations

from typing import Final

from bench.compare.measurement import Measurement
from bench.compare.plan import Plan
from bench.compare.stage import Stage
from bench.latency import Latency
from bench.peers.contract import THROUGHPUT

MODE: Final = THROUGHPUT
ENDS: Final = "ends are watched"
ALL: Final = "every transition is watched"
_REQUEST_TIMEOUT_S: Final = 300.0
# Jobs before the measurement, to set up connection pools, query plans and streams.
_WARM_UP_JOBS: Final = 200


async def measure_end_to_end(
    stage: Stage,
    *,
    plan: Plan,
    number: int,
    figure: str = "D",
    case: str = ENDS,
    **fields: object,
) -> Measurement:
    """Let a client submit jobs and wait for all ends, while one worker process runs.

    Args:
        stage: a stage without workers.
        plan: the number of jobs.
        number: the round number.
        figure: D, or E for the same work on a filled database.
        case: the name of the measurement.
        fields: additional fields of the request.
    """
    jobs = plan.slow_jobs if stage.contestant.slow else plan.jobs

    async with stage.workers(1):
        await stage.control.ask("end_to_end", timeout=_REQUEST_TIMEOUT_S, count=_WARM_UP_JOBS)
        meter = stage.meter()
        before = meter.sample()
        response = await stage.control.ask(
            "end_to_end", timeout=_REQUEST_TIMEOUT_S, count=jobs, **fields
        )
        total = jobs + len(response.get("late_ms", ()))
        cpu = before.microseconds_each(meter.sample(), total)
    values = {"jobs": float(total), "jobs_per_s": total / float(response["seconds"])}
    if response.get("late_ms"):
        late = Latency.of(round(ms * 1000) for ms in response["late_ms"])
        values |= {"late_p50_ms": late.p50, "late_p99_ms": late.p99, "late_max_ms": late.max}
    return Measurement(
        figure=figure,
        contestant=stage.contestant.name,
        case=case,
        round=number,
        values=values,
        cpu=cpu,
        note="" if jobs == plan.jobs else f"{jobs:,} jobs",
    )
