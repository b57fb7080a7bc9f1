"""What an idle stream costs the gateway: memory, and CPU time for its marks."""

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
from bench.streams.readers import Collect, Opened, Read, read
from bench.streams.rounds import PREPARE_S
from bench.usage import CpuMeter, resident_kib
from headrace_core.store.sql.database import Database

# These are open before the memory is read for the first time: what a gateway loads and sets up
# with its first streams is no part of what each of them costs.
_FIRST: Final = 100
_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What was measured.

    Attributes:
        kind: the call.
        streams: how many were opened.
        channels: over how many connections.
        before_kib, after_kib: the resident memory of the gateway.
        cpu: the share of a core that the gateway used while they were idle.
        marks: how many marks it sent in a second, on average; `peak` in the busiest one.
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
        """What one more stream costs, in KiB."""
        return (self.after_kib - self.before_kib) / self.streams


async def measure_memory(stack: Stack, plan: Plan, *, kind: Kind, channels: int) -> Memory:
    """Opens idle streams and reads the memory of the gateway before and after.

    Args:
        stack: gets a fresh gateway.
        plan: says how many.
        kind: which call.
        channels: over how many connections.
    """
    every = await _subjects(stack, kind, _FIRST + plan.idle)
    async with stack.gateway() as gateway:
        with Child.running("first", read, gateway.address, every[:_FIRST], 1) as first:
            await first.link.receive(Opened, timeout=PREPARE_S)
            before = resident_kib(gateway.pid)
            with Child.running("idle", read, gateway.address, every[_FIRST:], channels) as idle:
                await idle.link.receive(Opened, timeout=PREPARE_S)
                meter = CpuMeter({"gateway": gateway.pid})
                begin = meter.sample()
                await asyncio.sleep(plan.settle)
                cpu = begin.until(meter.sample())["gateway"]
                after = resident_kib(gateway.pid)
                idle.link.send(Collect(events=0))
                came = await idle.link.receive(Read, timeout=PREPARE_S)
    marks = Counter(mark // _MICROSECONDS for mark in array("q", came.marks))
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
