"""F20: twenty readers stop reading while 300 events a second match, and come back later."""

from __future__ import annotations

import asyncio
import time

from faults.evidence import Evidence, Wanted
from faults.load import Mix
from faults.measure import percentile
from faults.scenario import Scenario
from faults.trial import Trial
from faults.watchers import RawFollower

READERS = 20
# Some 3.8 events each.
JOBS_PER_S = 88.0
EVENTS_PER_S = 300.0
# Longer than a gateway's patience with them (HEADRACE_STREAM_PATIENCE).
STOPPED_S = 90.0
MEMORY_MIB = 64.0
OTHERS_S = 1.0
# What a connection takes without being read, in bytes.
_WINDOW = 65_536


async def run(trial: Trial) -> None:
    # A connection each: on one that they share, the slowest would set the pace.
    watchers = trial.more_watchers(channels=READERS // 2, window=_WINDOW)
    slow = [
        watchers.follow(f"slow {number}", Wanted(labels={"load": "load-1"}))
        for number in range(READERS)
    ]
    await trial.load(rate=JOBS_PER_S, mix=Mix(watched=0.05), steady=9)
    before = [gateway.memory() for gateway in trial.cluster.gateways]
    most = list(before)
    begin = time.time()
    async with trial.fault(f"{READERS} readers stop"):
        for follower in slow:
            follower.reading.clear()
        until = time.monotonic() + STOPPED_S
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            now = [gateway.memory() for gateway in trial.cluster.gateways]
            most = [max(pair) for pair in zip(most, now, strict=True)]
        end = time.time()
        for follower in slow:
            follower.reading.set()
    grown = max(after - earlier for after, earlier in zip(most, before, strict=True))
    trial.figure("memory of a gateway grew by", grown, "MiB", at_most=MEMORY_MIB)
    ended = [
        await gateway.metric("headrace_stream_slow_consumers_total")
        for gateway in trial.cluster.gateways
    ]
    trial.figure("ended as SLOW_CONSUMER", sum(ended), at_least=READERS)
    await asyncio.sleep(15)
    trial.afterwards(lambda evidence: _measure(trial, evidence, slow, begin, end))


def _measure(
    trial: Trial, evidence: Evidence, slow: list[RawFollower], begin: float, end: float
) -> None:
    matching = sum(begin <= event.time.timestamp() < end for event in evidence.events)
    trial.figure("events that match", matching / (end - begin), "/s", at_least=EVENTS_PER_S)
    apart = {follower.log.name for follower in slow}
    late = [
        shown.received - shown.time
        for stream in evidence.streams
        if stream.name not in apart
        for shown in stream.shown
        if begin <= shown.time < end
    ]
    trial.figure("the others' p50", percentile(late, 0.5), "s")
    trial.figure("the others' p99", percentile(late, 0.99), "s", at_most=OTHERS_S)
    told = sum("RESOURCE_EXHAUSTED" in follower.log.codes for follower in slow)
    trial.figure("readers that were told", told, at_least=READERS)


SCENARIO = Scenario(
    id="F20",
    title="20 readers stop reading for 90 s while 300 events a second match",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    usual=130,
    usual_short=130,
)
