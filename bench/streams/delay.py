"""Latency of events, from the commit to the readers of open streams."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import chain

from bench.child import Child, Link, Work
from bench.latency import Latency
from bench.stack import Stack
from bench.streams.following import idle_subjects, streams, subjects
from bench.streams.plan import Plan
from bench.streams.readers import Collect, Opened, ReadResult, read
from bench.streams.rounds import (
    LEAD_S,
    RESULT_TIMEOUT_S,
    SETUP_TIMEOUT_S,
    latencies_by_round,
    sample_rounds,
)
from bench.streams.writer import Prepared, Schedule, WriteResult, write
from bench.usage import CpuMeter


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """The latencies for a number of open streams.

    Attributes:
        streams: the number of streams with events.
        idle: the number of additional idle streams.
        rounds: the latencies, by round.
        whole: the latencies of all rounds together.
        cpu: the share of a core that each process used.
        written, missing, gaps, repeats: event counts; the last three must be 0.
        responses: the number of messages that carried the events.
        marks: the number of marks on idle streams.
        skew_ms: the lead of the database's clock over the readers' clock.
        late: the delays of commits relative to the schedule.
        commits: the durations of commits; each latency includes its commit.
    """

    streams: int
    idle: int
    rounds: Sequence[Latency]
    whole: Latency
    cpu: dict[str, float]
    written: int
    missing: int
    gaps: int
    repeats: int
    responses: int
    marks: int
    skew_ms: float
    late: Latency
    commits: Latency

    @property
    def best(self) -> Latency:
        """The round with the lowest p99."""
        return min(self.rounds, key=lambda latency: latency.p99)

    @property
    def exact(self) -> bool:
        """True if every event arrived once and in order."""
        return not (self.missing or self.gaps or self.repeats)


async def measure_delay(stack: Stack, plan: Plan, *, count: int, idle: int) -> Delay:
    """Open streams, write events, and measure the time from each event to its readers.

    Args:
        stack: the stack, which starts a fresh gateway.
        plan: the settings of the benchmark.
        count: the number of streams with events.
        idle: the number of additional streams without events.
    """
    following = streams(plan.mix, count, prefix=f"s{count}-{idle}")
    processes = dict(stack.servers)
    async with AsyncExitStack() as running:

        def child(name: str, work: Work, *arguments: object) -> Link:
            started = running.enter_context(Child.running(name, work, *arguments))
            processes[name] = started.pid
            return started.link

        # The writer submits its jobs while the gateway starts.
        writer = child("writer", write, stack.settings, following, plan.seed)
        gateway = await running.enter_async_context(stack.gateway())
        processes["gateway"] = gateway.pid
        prepared = await writer.receive(Prepared, timeout=SETUP_TIMEOUT_S)
        opened = subjects(following, prepared.jobs)
        readers = child("readers", read, gateway.address, opened, min(count, plan.channels))
        idlers = None
        if idle:
            opened = idle_subjects(idle)
            idlers = child("idle readers", read, gateway.address, opened, plan.channels)
            await idlers.receive(Opened, timeout=SETUP_TIMEOUT_S)
        await readers.receive(Opened, timeout=SETUP_TIMEOUT_S)

        start = time.time() + LEAD_S
        seconds = plan.warm_up + plan.rounds * plan.seconds
        writer.send(Schedule(start=start, rate=plan.rate, seconds=seconds))
        bounds, samples = await sample_rounds(CpuMeter(processes), plan, start)
        written = await writer.receive(WriteResult, timeout=RESULT_TIMEOUT_S)
        readers.send(Collect(events=written.events))
        received = await readers.receive(ReadResult, timeout=RESULT_TIMEOUT_S)
        marks = 0
        if idlers is not None:
            idlers.send(Collect(events=0))
            marks = len(
                array("q", (await idlers.receive(ReadResult, timeout=RESULT_TIMEOUT_S)).marks)
            )
    rounds = latencies_by_round(received.times, received.latencies, bounds)
    return Delay(
        streams=count,
        idle=idle,
        rounds=[Latency.of(latencies) for latencies in rounds],
        whole=Latency.of(chain(*rounds)),
        cpu=samples[0].core_shares(samples[-1]),
        written=written.events,
        missing=written.events - len(array("q", received.times)),
        gaps=received.gaps,
        repeats=received.repeats,
        responses=received.responses,
        marks=marks,
        skew_ms=prepared.skew * 1000,
        late=Latency.of(chain(*latencies_by_round(written.due, written.late, bounds))),
        commits=Latency.of(chain(*latencies_by_round(written.due, written.took, bounds))),
    )
