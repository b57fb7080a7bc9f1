"""F: each service's memory at rest, before and after many jobs."""

from __future__ import annotations

import asyncio
from typing import Final

from bench.compare.measurement import Measurement
from bench.compare.plan import Plan
from bench.compare.stage import Stage
from bench.peers.contract import THROUGHPUT
from bench.usage import KIB, proportional_kib

MODE: Final = THROUGHPUT
# Jobs per request. The client keeps the ids of only one request at a time.
_JOBS_PER_REQUEST: Final = 50_000
_REQUEST_TIMEOUT_S: Final = 300.0


def case(plan: Plan) -> str:
    """Return the name of the measurement."""
    return f"{plan.memory_jobs:,} jobs"


async def measure_memory(stage: Stage, *, plan: Plan) -> Measurement:
    """Read the memory, run many jobs from end to end, and read the memory again.

    Args:
        stage: a stage without workers.
        plan: the number of jobs and the idle time before each reading.
    """
    async with stage.workers(1):
        await asyncio.sleep(plan.rest)
        rest = _read_memory(stage)
        done = 0
        while done < plan.memory_jobs:
            part = min(_JOBS_PER_REQUEST, plan.memory_jobs - done)
            await stage.control.ask("end_to_end", timeout=_REQUEST_TIMEOUT_S, count=part)
            done += part
        await asyncio.sleep(plan.rest)
        after = _read_memory(stage)
    values = {f"{name}_rest_mib": mib for name, mib in rest.items()}
    values |= {f"{name}_after_mib": mib for name, mib in after.items()}
    return Measurement(
        figure="F", contestant=stage.contestant.name, case=case(plan), round=1, values=values
    )


def _read_memory(stage: Stage) -> dict[str, float]:
    """Return the memory of each process except the client, in MiB."""
    return {
        name: sum(proportional_kib(pid) for pid in pids) / KIB
        for name, pids in stage.processes.items()
        if pids and name != "client"
    }
