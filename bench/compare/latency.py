"""C: time from a submit until the client knows the end of the job, under light load."""

from __future__ import annotations

from typing import Final

from bench.compare.measurement import Measurement
from bench.compare.plan import Plan
from bench.compare.stage import Stage
from bench.latency import Latency
from bench.peers.contract import LATENCY
from bench.usage import switches_between

MODE: Final = LATENCY
_RESPONSE_MARGIN_S: Final = 60.0


def case(plan: Plan) -> str:
    """Return the name of the measurement."""
    return f"{plan.rate:g} jobs/s"


async def measure_latency(stage: Stage, *, plan: Plan, number: int) -> Measurement:
    """Measure the latency of submits at fixed times, independent of earlier jobs.

    Args:
        stage: a stage without workers.
        plan: the rate and the duration.
        number: the round number.
    """

    async def load(seconds: float) -> list[int]:
        response = await stage.control.ask(
            "latency", timeout=seconds + _RESPONSE_MARGIN_S, rate=plan.rate, seconds=seconds
        )
        return [int(value) for value in response["microseconds"]]

    async with stage.workers(1):
        await load(plan.warm_up)
        meter = stage.meter()
        wal = await stage.wal_position()
        before, switches = meter.sample(), meter.switches()
        samples = await load(plan.seconds)
        cpu = before.microseconds_each(meter.sample(), len(samples))
        wake_ups = switches_between(switches, meter.switches()) / len(samples)
        wal_bytes = (await stage.wal_position() - wal) / len(samples)
    latency = Latency.of(samples)
    return Measurement(
        figure="C",
        contestant=stage.contestant.name,
        case=case(plan),
        round=number,
        values={
            "jobs": latency.count,
            "p50_ms": latency.p50,
            "p95_ms": latency.p95,
            "p99_ms": latency.p99,
            "max_ms": latency.max,
            "wake_ups_per_job": wake_ups,
            "wal_bytes_per_job": wal_bytes,
        },
        cpu=cpu,
        samples=tuple(samples),
    )
