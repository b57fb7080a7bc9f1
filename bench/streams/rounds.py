"""The rounds of a measurement: the CPU times at their bounds, and their latencies."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Sequence
from typing import Final

from bench.streams.plan import Plan
from bench.usage import CpuMeter, CpuSample

# Longest time for the set-up, in seconds.
SETUP_TIMEOUT_S: Final = 300.0
# Time from the request for a load to its start, in seconds.
LEAD_S: Final = 0.5
# Longest wait for the result, in seconds.
RESULT_TIMEOUT_S: Final = 60.0


async def sample_rounds(
    meter: CpuMeter, plan: Plan, start: float
) -> tuple[list[float], list[CpuSample]]:
    """Sample the CPU times at the bounds of the rounds; also return the bounds (`time.time()`)."""
    bounds = [start + plan.warm_up + number * plan.seconds for number in range(plan.rounds + 1)]
    samples = []
    for bound in bounds:
        await asyncio.sleep(max(0.0, bound - time.time()))
        samples.append(meter.sample())
    return bounds, samples


def latencies_by_round(times: bytes, latencies: bytes, bounds: Sequence[float]) -> list[list[int]]:
    """Return the latencies by round.

    Args:
        times: the times of the events, an array of microseconds (`q`); they determine the round.
        latencies: the latencies of the events, in the same form.
        bounds: the bounds of the rounds, in seconds (`time.time()`).
    """
    rounds: list[list[int]] = [[] for _ in bounds[1:]]
    first_bound, length = bounds[0] * 1e6, (bounds[1] - bounds[0]) * 1e6
    for stamp, latency in zip(array("q", times), array("q", latencies), strict=True):
        number = int((stamp - first_bound) // length)
        if 0 <= number < len(rounds):
            rounds[number].append(latency)
    return rounds
