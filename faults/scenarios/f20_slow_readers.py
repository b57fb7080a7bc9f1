"""F20: twenty readers pause while 300 events per second match, and then continue."""

from __future__ import annotations

import asyncio
import time

from faults.evidence import Evidence, StreamFilter
from faults.load import Mix
from faults.measure import percentile
from faults.scenario import Scenario
from faults.trial import Trial
from faults.watchers import RawFollower

READERS = 20
# A job has about 3.8 events.
JOBS_PER_S = 88.0
EVENTS_PER_S = 300.0
# Longer than a gateway waits for a reader (HEADRACE_STREAM_PATIENCE).
STOPPED_S = 90.0
MAX_GROWTH_MIB = 64.0
MAX_OTHER_DELAY_S = 1.0
# The flow-control window of a connection, in bytes.
_WINDOW_BYTES = 65_536


async def run(trial: Trial) -> None:
    # One connection per reader, because the slowest reader blocks a shared connection.
    watchers = trial.add_watchers(channels=READERS // 2, window=_WINDOW_BYTES)
    slow = [
        watchers.follow(f"slow {number}", StreamFilter(labels={"load": "load-1"}))
        for number in range(READERS)
    ]
    await trial.load(rate=JOBS_PER_S, mix=Mix(watched=0.05), steady=9)
    before = [gateway.memory_mib() for gateway in trial.cluster.gateways]
    peak = list(before)
    start = time.time()
    async with trial.fault(f"{READERS} readers stop"):
        for follower in slow:
            follower.reading.clear()
        until = time.monotonic() + STOPPED_S
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            now = [gateway.memory_mib() for gateway in trial.cluster.gateways]
            peak = [max(pair) for pair in zip(peak, now, strict=True)]
        end = time.time()
        for follower in slow:
            follower.reading.set()
    growth = max(after - earlier for after, earlier in zip(peak, before, strict=True))
    trial.figure("memory growth of a gateway", growth, "MiB", at_most=MAX_GROWTH_MIB)
    ended = [
        await gateway.metric("headrace_stream_slow_consumers_total")
        for gateway in trial.cluster.gateways
    ]
    trial.figure("streams ended as SLOW_CONSUMER", sum(ended), at_least=READERS)
    await asyncio.sleep(15)
    trial.on_evidence(lambda evidence: _measure(trial, evidence, slow, start, end))


def _measure(
    trial: Trial, evidence: Evidence, slow: list[RawFollower], start: float, end: float
) -> None:
    matching = sum(start <= event.time.timestamp() < end for event in evidence.events)
    trial.figure("matching events", matching / (end - start), "/s", at_least=EVENTS_PER_S)
    slow_names = {follower.log.name for follower in slow}
    late = [
        shown.received - shown.time
        for stream in evidence.streams
        if stream.name not in slow_names
        for shown in stream.shown
        if start <= shown.time < end
    ]
    trial.figure("delay of other streams, p50", percentile(late, 0.5), "s")
    trial.figure(
        "delay of other streams, p99", percentile(late, 0.99), "s", at_most=MAX_OTHER_DELAY_S
    )
    ended = sum("RESOURCE_EXHAUSTED" in follower.log.codes for follower in slow)
    trial.figure("readers that received RESOURCE_EXHAUSTED", ended, at_least=READERS)


SCENARIO = Scenario(
    id="F20",
    title="20 readers stop reading for 90 s while 300 events per second match",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    usual=130,
    usual_short=130,
)
