"""Comparison with clients that poll for the same events."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from itertools import chain

from bench.child import Child
from bench.latency import Latency
from bench.stack import Stack
from bench.streams.following import Mix, streams
from bench.streams.plan import Plan
from bench.streams.polling import PollingStarted, PollResult, Stop, poll
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
class PollingFigures:
    """The transitions that polling clients received; each client polls one job.

    Attributes:
        clients: the number of clients.
        interval: seconds between two calls of a client.
        calls: calls per second of all clients.
        latency: the time from each transition until its client received it.
        seen: the share of all transitions that the clients received.
        cpu: the share of a core that each process used.
    """

    clients: int
    interval: float
    calls: float
    latency: Latency
    seen: float
    cpu: dict[str, float]


async def measure_polling(stack: Stack, plan: Plan, *, interval: float) -> PollingFigures:
    """Poll jobs under the same load as for the streams."""
    following = streams(Mix.JOB, plan.pollers, prefix=f"poll-{interval}")
    with Child.running("writer", write, stack.settings, following, plan.seed) as writer:
        async with stack.gateway() as gateway:
            prepared = await writer.link.receive(Prepared, timeout=SETUP_TIMEOUT_S)
            ids = [jobs[0] for jobs in prepared.jobs]
            with Child.running(
                "pollers", poll, gateway.address, ids, interval, plan.seed
            ) as pollers:
                processes = {
                    "gateway": gateway.pid,
                    **stack.servers,
                    "writer": writer.pid,
                    "readers": pollers.pid,
                }
                await pollers.link.receive(PollingStarted, timeout=SETUP_TIMEOUT_S)
                polling_since = time.monotonic()
                start = time.time() + LEAD_S
                seconds = plan.warm_up + plan.rounds * plan.seconds
                writer.link.send(Schedule(start=start, rate=plan.rate, seconds=seconds))
                bounds, samples = await sample_rounds(CpuMeter(processes), plan, start)
                await writer.link.receive(WriteResult, timeout=RESULT_TIMEOUT_S)
                pollers.link.send(Stop())
                elapsed = time.monotonic() - polling_since
                polled = await pollers.link.receive(PollResult, timeout=RESULT_TIMEOUT_S)
    rounds = latencies_by_round(polled.times, polled.latencies, bounds)
    seen = len(array("q", polled.times))
    return PollingFigures(
        clients=plan.pollers,
        interval=interval,
        calls=polled.calls / elapsed,
        latency=Latency.of(chain(*rounds)),
        seen=seen / max(1, seen + polled.missed),
        cpu=samples[0].core_shares(samples[-1]),
    )
