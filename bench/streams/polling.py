"""Clients that poll their jobs instead of opening streams."""

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
from bench.streams.readers import Stub, microseconds, open_stub
from headrace.v1 import job_pb2, job_service_pb2

# The number of connections.
_CHANNELS = 4


class PollingStarted:
    """The report that all clients are connected and polling."""


class Stop:
    """The request to stop polling and to return the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """The transitions that the clients received.

    Attributes:
        times: the times of the transitions, an array of microseconds (`q`).
        latencies: the time from each transition until its client received it, in the same form.
        missed: the number of transitions that a later one replaced between two calls.
        calls: the number of calls.
    """

    times: bytes
    latencies: bytes
    missed: int
    calls: int


async def poll(
    link: Link, address: str, job_ids: Sequence[str], interval: float, seed: int
) -> None:
    """Poll each job once per interval, with one client per job.

    Args:
        link: sends PollingStarted; receives Stop, then sends PollResult.
        address: the address of the gateway.
        job_ids: the jobs to poll.
        interval: seconds between two calls of a client; a longer call delays the next one.
        seed: the random seed for the phases of the clients.
    """
    seen = _PollRecorder()
    phases = random.Random(seed)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        stubs = [await stack.enter_async_context(open_stub(address)) for _ in range(_CHANNELS)]
        for stub in stubs:
            await stub.GetJob(job_service_pb2.GetJobRequest(job_id=job_ids[0]))
        tasks = [
            group.create_task(
                seen.follow(stubs[number % _CHANNELS], job_id, interval, phases.random() * interval)
            )
            for number, job_id in enumerate(job_ids)
        ]
        link.send(PollingStarted())
        await link.receive(Stop, timeout=IDLE_S)
        for task in tasks:
            task.cancel()
        link.send(seen.result())


class _PollRecorder:
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

    def result(self) -> PollResult:
        return PollResult(
            times=self._times.tobytes(),
            latencies=self._latencies.tobytes(),
            missed=self._missed,
            calls=self._calls,
        )
