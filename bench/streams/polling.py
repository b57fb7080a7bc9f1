"""What a user without streams would do: ask for each job again and again."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.child import IDLE_S, Link
from bench.streams.jobs import STARTED_SEQ
from bench.streams.readers import Stub, microseconds, stub_of
from headrace.v1 import job_pb2, job_service_pb2

# Over how many connections.
_CHANNELS = 4


class Begun:
    """All clients are connected, and ask."""


class Stop:
    """Asks for what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """What was seen.

    `times` are the times of the transitions that were seen, `latencies` how much later that was,
    both as arrays of microseconds (`q`); `missed` counts those that a later one had replaced
    before anybody asked; `calls` counts calls.
    """

    times: bytes
    latencies: bytes
    missed: int
    calls: int


async def poll(
    link: Link, address: str, job_ids: Sequence[str], interval: float, seed: int
) -> None:
    """Asks for each job once per interval, as so many clients of their own would.

    Args:
        link: says Begun; gets a Stop and says Polled.
        address: the gateway's.
        job_ids: a client for each.
        interval: seconds between two calls of a client; a call that takes longer delays the next.
        seed: of where in its interval each client begins.
    """
    seen = _Seen()
    phases = random.Random(seed)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        stubs = [await stack.enter_async_context(stub_of(address)) for _ in range(_CHANNELS)]
        for stub in stubs:
            await stub.GetJob(job_service_pb2.GetJobRequest(job_id=job_ids[0]))
        tasks = [
            group.create_task(
                seen.follow(stubs[number % _CHANNELS], job_id, interval, phases.random() * interval)
            )
            for number, job_id in enumerate(job_ids)
        ]
        link.send(Begun())
        await link.receive(Stop, timeout=IDLE_S)
        for task in tasks:
            task.cancel()
        link.send(seen.result())


class _Seen:
    def __init__(self) -> None:
        self._times, self._latencies = array("q"), array("q")
        self._missed = self._calls = 0

    async def follow(self, stub: Stub, job_id: str, interval: float, phase: float) -> None:
        request = job_service_pb2.GetJobRequest(job_id=job_id, view=job_pb2.JOB_VIEW_BASIC)
        clock = asyncio.get_running_loop().time
        due, last = clock() + phase, STARTED_SEQ
        while True:
            await asyncio.sleep(max(0.0, due - clock()))
            job = (await stub.GetJob(request)).job
            self._calls += 1
            if job.seq > last:
                now, stamp = time.time_ns() // 1000, microseconds(job.update_time)
                self._times.append(stamp)
                self._latencies.append(now - stamp)
                self._missed += job.seq - last - 1
                last = job.seq
            due = max(due + interval, clock())

    def result(self) -> Polled:
        return Polled(
            times=self._times.tobytes(),
            latencies=self._latencies.tobytes(),
            missed=self._missed,
            calls=self._calls,
        )
