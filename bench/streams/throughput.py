"""Throughput of one stream, in events per second."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from bench.child import Child
from bench.stack import Stack
from bench.streams.following import Kind, Mix, Subject, streams, subjects
from bench.streams.plan import Plan
from bench.streams.readers import Collect, Opened, ReadResult, read
from bench.streams.rounds import SETUP_TIMEOUT_S
from bench.streams.writer import Burst, Prepared, WriteResult, write


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Events per second through one WatchJobs stream.

    Attributes:
        events: the number of events.
        live: events per second while one writer writes at full speed.
        catch_up: events per second when read again from a cursor before the first one.
        missing: the number of lost events; must be 0.
    """

    events: int
    live: float
    catch_up: float
    missing: int


async def measure_throughput(stack: Stack, plan: Plan) -> Throughput:
    """Write a burst of events, read it live, then read it again from its start."""
    (stream,) = streams(Mix.JOBS, 1, prefix="burst")
    with Child.running("writer", write, stack.settings, [stream], plan.seed) as writer:
        async with stack.gateway() as gateway:
            prepared = await writer.link.receive(Prepared, timeout=SETUP_TIMEOUT_S)
            following = subjects([stream], prepared.jobs)
            with Child.running("reader", read, gateway.address, following, 1) as reader:
                opened = await reader.link.receive(Opened, timeout=SETUP_TIMEOUT_S)
                writer.link.send(Burst(events=plan.burst))
                await writer.link.receive(WriteResult, timeout=SETUP_TIMEOUT_S)
                reader.link.send(Collect(events=plan.burst))
                live = await reader.link.receive(ReadResult, timeout=SETUP_TIMEOUT_S)
            replay = Subject(kind=Kind.JOBS, label=stream.label, cursor=opened.cursor)
            with Child.running("reader", read, gateway.address, [replay], 1) as reader:
                await reader.link.receive(Opened, timeout=SETUP_TIMEOUT_S)
                reader.link.send(Collect(events=plan.burst))
                caught_up = await reader.link.receive(ReadResult, timeout=SETUP_TIMEOUT_S)
    seen = [array("q", run.times) for run in (live, caught_up)]
    return Throughput(
        events=plan.burst,
        # The live time starts at the first event, the catch-up time at the first message.
        live=_rate(live, since=seen[0][0]),
        catch_up=_rate(caught_up, since=seen[1][0] + array("q", caught_up.latencies)[0]),
        missing=sum(plan.burst - len(times) for times in seen),
    )


def _rate(run: ReadResult, *, since: int) -> float:
    times, latencies = array("q", run.times), array("q", run.latencies)
    return len(times) / ((times[-1] + latencies[-1] - since) / 1e6)
