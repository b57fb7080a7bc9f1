"""B: jobs accepted per second. A submit ends once the job is accepted."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

from bench.compare.measurement import Measurement
from bench.compare.plan import Plan
from bench.compare.stage import Stage
from bench.peers.contract import THROUGHPUT

MODE: Final = THROUGHPUT
SINGLE: Final = "single"
BULK: Final = "bulk"
CLIENTS: Final = "single, several clients"
# Submits that warm up the contestant; their rate determines the number of measured jobs.
_WARM_UP_JOBS: Final = 300
_WARM_UP_BATCHES: Final = 2
_MAX_JOBS: Final = 100_000
_REQUEST_TIMEOUT_S: Final = 120.0


async def measure_accept(stage: Stage, *, plan: Plan, number: int) -> list[Measurement]:
    """Measure single submits, bulk submits, and single submits from several client processes.

    No worker claims the jobs. Headrace has a worker for another queue with the same handler, so its
    gateway validates each payload against a schema.

    Args:
        stage: a stage without workers.
        plan: the duration and the numbers of submits.
        number: the round number.
    """
    async with AsyncExitStack() as running:
        if stage.contestant.is_headrace:
            other_queue = {"HEADRACE_WORKER_QUEUES": "other"}
            await running.enter_async_context(stage.workers(1, other_queue))
        single = await _measure_single(stage, plan, number)
        measured = [single]
        bulk = await _measure_bulk(stage, plan, number)
        if bulk is not None:
            measured.append(bulk)
        measured.append(await _measure_clients(stage, plan, number, single.values["jobs_per_s"]))
    return measured


async def _measure_single(stage: Stage, plan: Plan, number: int) -> Measurement:
    limit = plan.in_flight

    async def submit(count: int) -> float:
        response = await stage.control.ask(
            "accept", timeout=_REQUEST_TIMEOUT_S, count=count, in_flight=limit
        )
        return float(response["seconds"])

    count = _jobs_to_submit(_WARM_UP_JOBS / await submit(_WARM_UP_JOBS), plan, unit=1)
    meter = stage.meter()
    before = meter.sample()
    seconds = await submit(count)
    cpu = before.microseconds_each(meter.sample(), count)
    return _measurement(stage, SINGLE, number, count=count, seconds=seconds, cpu=cpu)


async def _measure_bulk(stage: Stage, plan: Plan, number: int) -> Measurement | None:
    async def submit(count: int) -> float | None:
        response = await stage.control.ask(
            "bulk", timeout=_REQUEST_TIMEOUT_S, count=count, batch=plan.batch
        )
        return None if response.get("unsupported") else float(response["seconds"])

    trial = _WARM_UP_BATCHES * plan.batch
    trial_seconds = await submit(trial)
    if trial_seconds is None:
        return None
    count = _jobs_to_submit(trial / trial_seconds, plan, unit=plan.batch)
    meter = stage.meter()
    before = meter.sample()
    seconds = await submit(count)
    assert seconds is not None
    cpu = before.microseconds_each(meter.sample(), count)
    return _measurement(stage, BULK, number, count=count, seconds=seconds, cpu=cpu)


async def _measure_clients(stage: Stage, plan: Plan, number: int, rate: float) -> Measurement:
    each = max(1, plan.in_flight // plan.clients)
    async with AsyncExitStack() as running:
        others = [stage.another_control() for _ in range(plan.clients - 1)]
        clients = [
            stage.control,
            *[await running.enter_async_context(other) for other in others],
        ]

        async def submit(count: int) -> float:
            start = time.monotonic()
            await asyncio.gather(
                *(
                    client.ask("accept", timeout=_REQUEST_TIMEOUT_S, count=count, in_flight=each)
                    for client in clients
                )
            )
            return time.monotonic() - start

        await submit(_WARM_UP_JOBS // plan.clients)
        count = _jobs_to_submit(rate / plan.clients, plan, unit=1)
        meter = stage.meter()
        before = meter.sample()
        seconds = await submit(count)
        total = count * plan.clients
        cpu = before.microseconds_each(meter.sample(), total)
    return _measurement(stage, CLIENTS, number, count=total, seconds=seconds, cpu=cpu)


def _jobs_to_submit(rate: float, plan: Plan, *, unit: int) -> int:
    """Return the number of jobs whose submits take about `plan.accept_seconds` at this rate."""
    return max(1, round(min(rate * plan.accept_seconds, _MAX_JOBS) / unit)) * unit


def _measurement(
    stage: Stage, case: str, number: int, *, count: int, seconds: float, cpu: dict[str, float]
) -> Measurement:
    return Measurement(
        figure="B",
        contestant=stage.contestant.name,
        case=case,
        round=number,
        values={"jobs": count, "jobs_per_s": count / seconds},
        cpu=cpu,
    )
