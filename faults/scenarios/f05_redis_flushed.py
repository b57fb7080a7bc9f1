"""F5: all data in Redis is deleted five times while deliveries wait in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from faults.evidence import EventRow, Evidence
from faults.load import Mix
from faults.scenario import Scenario
from faults.trial import Trial
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.lifecycle import EventType

FLUSHES = 5
SHORT_FLUSHES = 2
INTERVAL_S = 10.0
# The number of jobs submitted before each flush, and their shortest and longest duration in
# seconds. There are more jobs than slots, so some deliveries wait in Redis.
BURST_JOBS = 600
DURATION_S = (0.5, 1.5)
# Longest time from a lost delivery to the start of its attempt, in seconds.
MAX_START_DELAY_S = 20.0


async def run(trial: Trial) -> None:
    load = await trial.load()
    valkey = trial.cluster.valkey
    lost: list[tuple[float, set[AttemptKey]]] = []
    flushes = SHORT_FLUSHES if trial.short else FLUSHES
    for number in range(1, flushes + 1):
        async with trial.fault(f"flush {number}", recovers_within=30):
            load.burst(BURST_JOBS, Mix(seconds=DURATION_S, watched=0, attached=0, scheduled=0))
            waiting = await trial.waiting_deliveries()
            await valkey.flush()
            lost.append((time.time(), waiting))
        await asyncio.sleep(INTERVAL_S)
    # All deliveries must be repeated within this time.
    await asyncio.sleep(MAX_START_DELAY_S)

    def measure(evidence: Evidence) -> None:
        waits = list(_start_delays(lost, evidence.events))
        trial.figure("deliveries lost", sum(len(names) for _, names in lost), at_least=flushes)
        trial.figure(
            "longest time from a lost delivery to the start",
            max((wait for wait in waits if wait > 0), default=float("nan")),
            "s",
            at_most=MAX_START_DELAY_S,
        )

    trial.on_evidence(measure)
    trial.expect_codes(only=frozenset())


def _start_delays(
    lost: Iterable[tuple[float, set[AttemptKey]]], events: Iterable[EventRow]
) -> Iterable[float]:
    """Return the time from each lost delivery to the start of its attempt, in seconds."""
    started = {
        (event.job_id, event.attempt): event.time.timestamp()
        for event in events
        if event.type is EventType.STARTED
    }
    last = {(str(d.job_id), d.attempt): moment for moment, names in lost for d in names}
    return [started.get(name, float("inf")) - moment for name, moment in last.items()]


SCENARIO = Scenario(
    id="F5",
    title="FLUSHALL five times, 10 s apart, while deliveries wait",
    shows=("I1", "I2", "I3", "I4", "I7", "I10"),
    run=run,
    usual=95,
    usual_short=75,
)
