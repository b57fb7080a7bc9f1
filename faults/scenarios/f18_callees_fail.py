"""F18: all calls from handlers fail: with 503, with Retry-After, or without a response."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler

from faults.evidence import Evidence
from faults.handlers import MAX_RETRY_AFTER
from faults.load import Mix
from faults.scenario import Scenario
from faults.trial import Trial
from headrace_core.domain.lifecycle import TERMINAL, EventType
from support.web import Responder, disconnect, reply, web_server

DOWN_S = 120.0
SHORT_DOWN_S = 40.0
RATE = 30.0
# Extra jobs at the start of the fault, the worst case for a thundering herd.
BURST_JOBS = 500
# Highest ratio of the retries in one second to the mean of the seconds around it.
MAX_PEAK = 2.0
# The number of these seconds before, and the number after.
AROUND_S = 15


async def run(trial: Trial) -> None:
    with web_server() as service:
        fails = _failing_responder()
        mix = Mix(url=service.url, scheduled=0, failing=0)
        load = await trial.load(rate=RATE, mix=mix)
        duration = SHORT_DOWN_S if trial.short else DOWN_S
        async with trial.fault(f"all calls fail for {duration:g} s"):
            start = time.time()
            service.responder = fails
            load.burst(BURST_JOBS, mix)
            await asyncio.sleep(duration)
            service.responder = reply(200)
            end = time.time()
        # Later jobs call a working service.
        await asyncio.sleep(5)
        await load.stop()
        await trial.records.all_ended(within=2 * duration)

        def measure(evidence: Evidence) -> None:
            _measure(trial, evidence, start=start, end=end)

        trial.on_evidence(measure)


def _failing_responder() -> Responder:
    """Return the responder of a failing service: all kinds of failures in turn."""
    longest = str(int(MAX_RETRY_AFTER.total_seconds()))
    kinds = [
        reply(503),
        reply(503, Retry_After=longest),
        disconnect,
        reply(500),
        reply(429, Retry_After="2"),
    ]
    calls = 0

    def respond(request: BaseHTTPRequestHandler) -> None:
        nonlocal calls
        calls += 1
        kinds[calls % len(kinds)](request)

    return respond


def _measure(trial: Trial, evidence: Evidence, *, start: float, end: float) -> None:
    due: Counter[int] = Counter()
    started: Counter[int] = Counter()
    failed: set[str] = set()
    last = end
    for event in evidence.events:
        moment = event.time.timestamp()
        if event.type is EventType.RETRY_SCHEDULED and event.due_time is not None:
            due[int(event.due_time.timestamp() - start)] += 1
            failed.add(event.job_id)
        elif event.type is EventType.STARTED and event.attempt > 1:
            started[int(moment - start)] += 1
        if event.state in TERMINAL and event.job_id in failed:
            last = max(last, moment)
    trial.figure("jobs that were retried", len(failed), at_least=BURST_JOBS)
    trial.figure("retries", sum(started.values()))
    duration = int(end - start)
    trial.figure("peak of due retries to the mean", _peak_ratio(due, duration), at_most=MAX_PEAK)
    # The start times also depend on the load of the machine.
    trial.figure("peak of started retries to the mean", _peak_ratio(started, duration))
    trial.figure("time until all retried jobs ended", last - end, "s", at_most=2 * (end - start))


def _peak_ratio(counts: Counter[int], duration: int) -> float:
    """Return the highest ratio of one second's count to the mean of the seconds around it.

    The mean of the whole time would be misleading, because the first retries are close together and
    their number grows with every new job. The first seconds are omitted for the same reason.
    """
    peaks = []
    for second in range(AROUND_S, duration - 1):
        around = range(second - AROUND_S, min(second + AROUND_S, duration))
        mean = sum(counts[each] for each in around) / len(around)
        peaks.append(counts[second] / mean if mean else 0.0)
    return max(peaks)


SCENARIO = Scenario(
    id="F18",
    title="all calls of handlers fail for 2 min",
    shows=("I1", "I2", "I3", "I4", "I6", "I7"),
    run=run,
    usual=170,
    usual_short=95,
)
