"""Cost of idle streams in the gateway: memory, and CPU time for idle marks."""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import Final

from bench.child import Child
from bench.stack import Stack
from bench.streams.following import Kind, Subject, idle_subjects
from bench.streams.jobs import submit
from bench.streams.plan import Plan
from bench.streams.readers import Collect, Opened, ReadResult, read
from bench.streams.rounds import SETUP_TIMEOUT_S
from bench.usage import CpuMeter, resident_kib
from headrace_core.store.sql.database import Database

# Streams opened before the first memory reading, to exclude the one-time costs of a gateway's first
# streams.
_WARM_UP_STREAMS: Final = 100
_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The cost of a number of idle streams.

    Attributes:
        kind: the RPC.
        streams: the number of streams.
        channels: the number of connections.
        before_kib, after_kib: the resident memory of the gateway before and after.
        cpu: the share of a core that the gateway used for the idle streams.
        marks: the average number of marks per second.
        peak: the number of marks in the busiest second.
    """

    kind: Kind
    streams: int
    channels: int
    before_kib: float
    after_kib: float
    cpu: float
    marks: float
    peak: int

    @property
    def kib_per_stream(self) -> float:
        """The memory per stream, in KiB."""
        return (self.after_kib - self.before_kib) / self.streams


async def measure_memory(stack: Stack, plan: Plan, *, kind: Kind, channels: int) -> Memory:
    """Open idle streams and read the memory of the gateway before and after.

    Args:
        stack: the stack, which starts a fresh gateway.
        plan: the number of streams and their lifetime.
        kind: the RPC.
        channels: the number of connections.
    """
    subjects = await _subjects(stack, kind, _WARM_UP_STREAMS + plan.idle)
    async with stack.gateway() as gateway:
        with Child.running("first", read, gateway.address, subjects[:_WARM_UP_STREAMS], 1) as first:
            await first.link.receive(Opened, timeout=SETUP_TIMEOUT_S)
            before = resident_kib(gateway.pid)
            with Child.running(
                "idle", read, gateway.address, subjects[_WARM_UP_STREAMS:], channels
            ) as idle:
                await idle.link.receive(Opened, timeout=SETUP_TIMEOUT_S)
                meter = CpuMeter({"gateway": gateway.pid})
                start = meter.sample()
                await asyncio.sleep(plan.settle)
                cpu = start.core_shares(meter.sample())["gateway"]
                after = resident_kib(gateway.pid)
                idle.link.send(Collect(events=0))
                received = await idle.link.receive(ReadResult, timeout=SETUP_TIMEOUT_S)
    marks = Counter(mark // _MICROSECONDS for mark in array("q", received.marks))
    return Memory(
        kind=kind,
        streams=plan.idle,
        channels=channels,
        before_kib=before,
        after_kib=after,
        cpu=cpu,
        marks=marks.total() / plan.settle,
        peak=max(marks.values(), default=0),
    )


async def _subjects(stack: Stack, kind: Kind, count: int) -> list[Subject]:
    if kind is Kind.JOBS:
        return idle_subjects(count)
    database = Database(stack.settings, application="bench")
    try:
        ids = await submit(database, ["waiting"] * count)
    finally:
        await database.close()
    return [Subject(kind=Kind.JOB, job_id=str(job_id)) for job_id in ids]
