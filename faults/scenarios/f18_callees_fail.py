"""F18: everything that handlers call fails: with 503, with Retry-After, or without an answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler

from faults.evidence import Evidence
from faults.handlers import LONGEST_RETRY_AFTER
from faults.load import Mix
from faults.scenario import Scenario
from faults.trial import Trial
from headrace_core.domain.lifecycle import TERMINAL, EventType
from support.web import Answer, hang_up, reply, site

GONE_S = 120.0
SHORT_S = 40.0
RATE = 30.0
# So many more come at once when it begins: the worst herd there is.
BURST = 500
# Retries in a second, to the mean of the seconds around it, so many to each side.
PEAK = 2.0
AROUND_S = 15


async def run(trial: Trial) -> None:
    with site() as service:
        fails = _failing()
        mix = Mix(calls=service.url, later=0, failing=0)
        load = await trial.load(rate=RATE, mix=mix)
        lasting = SHORT_S if trial.short else GONE_S
        async with trial.fault(f"what is called fails for {lasting:g} s"):
            began = time.time()
            service.answer = fails
            load.burst(BURST, mix)
            await asyncio.sleep(lasting)
            service.answer = reply(200)
            end = time.time()
        # What comes afterwards finds it well.
        await asyncio.sleep(5)
        await load.stop()
        await trial.records.all_ended(within=2 * lasting)

        def measure(evidence: Evidence) -> None:
            _measure(trial, evidence, began=began, end=end)

        trial.afterwards(measure)


def _failing() -> Answer:
    """Answers of a service that is down, one kind after the other."""
    asked = str(int(LONGEST_RETRY_AFTER.total_seconds()))
    kinds = [
        reply(503),
        reply(503, Retry_After=asked),
        hang_up,
        reply(500),
        reply(429, Retry_After="2"),
    ]
    calls = 0

    def answer(request: BaseHTTPRequestHandler) -> None:
        nonlocal calls
        calls += 1
        kinds[calls % len(kinds)](request)

    return answer


def _measure(trial: Trial, evidence: Evidence, *, began: float, end: float) -> None:
    due: Counter[int] = Counter()
    started: Counter[int] = Counter()
    failed: set[str] = set()
    last = end
    for event in evidence.events:
        moment = event.time.timestamp()
        if event.type is EventType.RETRY_SCHEDULED and event.due_time is not None:
            due[int(event.due_time.timestamp() - began)] += 1
            failed.add(event.job_id)
        elif event.type is EventType.STARTED and event.attempt > 1:
            started[int(moment - began)] += 1
        if event.state in TERMINAL and event.job_id in failed:
            last = max(last, moment)
    trial.figure("jobs that were tried again", len(failed), at_least=BURST)
    trial.figure("retries", sum(started.values()))
    lasting = int(end - began)
    trial.figure("most retries due in a second, to the mean", _peak(due, lasting), at_most=PEAK)
    # When they start, a machine that is busy otherwise decides as well.
    trial.figure("most started", _peak(started, lasting))
    trial.figure("drained after", last - end, "s", at_most=2 * (end - began))


def _peak(counts: Counter[int], lasting: int) -> float:
    """The second with the most, to the mean of those around it.

    At the begin all come from the jobs of one second, until the waits have grown; and with every
    job that comes there are more. So neither is compared with the mean of the whole time.
    """
    peaks = []
    for second in range(AROUND_S, lasting - 1):
        around = range(second - AROUND_S, min(second + AROUND_S, lasting))
        mean = sum(counts[each] for each in around) / len(around)
        peaks.append(counts[second] / mean if mean else 0.0)
    return max(peaks)


SCENARIO = Scenario(
    id="F18",
    title="everything that handlers call fails for 2 min",
    shows=("I1", "I2", "I3", "I4", "I6", "I7"),
    run=run,
    usual=170,
    usual_short=95,
)
