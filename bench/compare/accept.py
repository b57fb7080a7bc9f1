"""B: how many jobs are accepted in a second. A submit has ended when the job is accepted."""

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
# What is submitted to warm up, and to see how many a measurement takes.
_TRIAL: Final = 300
_TRIAL_BATCHES: Final = 2
_MOST: Final = 100_000
_REQUEST_S: Final = 120.0


async def measure_accept(stage: Stage, *, plan: Plan, number: int) -> list[Measurement]:
    """Submits one by one, in bulk, and from several processes.

    Nobody takes the jobs, but Headrace has a worker of another queue with the same handler, so that
    its gateway checks each payload against a schema.

    Args:
        stage: has no workers.
        plan: says how long.
        number: of the round.
    """
    async with AsyncExitStack() as running:
        if stage.contestant.is_headrace:
            nobody = {"HEADRACE_WORKER_QUEUES": "nobody"}
            await running.enter_async_context(stage.workers(1, nobody))
        single = await _single(stage, plan, number)
        measured = [single]
        bulk = await _bulk(stage, plan, number)
        if bulk is not None:
            measured.append(bulk)
        measured.append(await _clients(stage, plan, number, single.values["jobs_per_s"]))
    return measured


async def _single(stage: Stage, plan: Plan, number: int) -> Measurement:
    limit = plan.in_flight

    async def submit(count: int) -> float:
        answer = await stage.control.ask("accept", timeout=_REQUEST_S, count=count, in_flight=limit)
        return float(answer["seconds"])

    count = _count(_TRIAL / await submit(_TRIAL), plan, unit=1)
    meter = stage.meter()
    before = meter.sample()
    seconds = await submit(count)
    cpu = before.microseconds_each(meter.sample(), count)
    return _measurement(stage, SINGLE, number, count=count, seconds=seconds, cpu=cpu)


async def _bulk(stage: Stage, plan: Plan, number: int) -> Measurement | None:
    async def ask(count: int) -> float | None:
        answer = await stage.control.ask("bulk", timeout=_REQUEST_S, count=count, batch=plan.batch)
        return None if answer.get("unsupported") else float(answer["seconds"])

    trial = _TRIAL_BATCHES * plan.batch
    took = await ask(trial)
    if took is None:
        return None
    count = _count(trial / took, plan, unit=plan.batch)
    meter = stage.meter()
    before = meter.sample()
    seconds = await ask(count)
    assert seconds is not None
    cpu = before.microseconds_each(meter.sample(), count)
    return _measurement(stage, BULK, number, count=count, seconds=seconds, cpu=cpu)


async def _clients(stage: Stage, plan: Plan, number: int, rate: float) -> Measurement:
    each = max(1, plan.in_flight // plan.clients)
    async with AsyncExitStack() as running:
        others = [stage.another_control() for _ in range(plan.clients - 1)]
        clients = [
            stage.control,
            *[await running.enter_async_context(other) for other in others],
        ]

        async def submit(count: int) -> float:
            began = time.monotonic()
            await asyncio.gather(
                *(
                    client.ask("accept", timeout=_REQUEST_S, count=count, in_flight=each)
                    for client in clients
                )
            )
            return time.monotonic() - began

        await submit(_TRIAL // plan.clients)
        count = _count(rate / plan.clients, plan, unit=1)
        meter = stage.meter()
        before = meter.sample()
        seconds = await submit(count)
        total = count * plan.clients
        cpu = before.microseconds_each(meter.sample(), total)
    return _measurement(stage, CLIENTS, number, count=total, seconds=seconds, cpu=cpu)


def _count(rate: float, plan: Plan, *, unit: int) -> int:
    """How many jobs take about as long as the plan says."""
    return max(1, round(min(rate * plan.accept_seconds, _MOST) / unit)) * unit


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
