"""F10: a foreign transaction with an assigned id stays open."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from faults.cluster import Service
from faults.evidence import Evidence, StreamLog
from faults.load import Mix
from faults.measure import claim_waits, percentile
from faults.scenario import Scenario
from faults.trial import Trial, until

IDLE_S = 120.0
SHORT_IDLE_S = 30.0
STEADY_S = 30.0
LAG_METRIC = "headrace_settled_lag_seconds"


async def run(trial: Trial) -> None:
    await trial.load(rate=50, mix=Mix(watched=0.4), steady=STEADY_S)
    start = time.time()
    async with trial.fault("a transaction stays open"), trial.records.idle_transaction():
        started = time.monotonic()
        raised = await asyncio.gather(
            *(until(partial(_is_lagging, gateway), within=30) for gateway in trial.cluster.gateways)
        )
        trial.figure("time until the lag metric rises", max(raised), "s", at_most=10)
        await asyncio.sleep(
            (SHORT_IDLE_S if trial.short else IDLE_S) - (time.monotonic() - started)
        )
        lags = [await gateway.metric(LAG_METRIC) for gateway in trial.cluster.gateways]
        trial.figure("lag metric at the end", min(lags), "s")
    end = time.time()
    lowered = await asyncio.gather(
        *(until(partial(_has_caught_up, gateway), within=30) for gateway in trial.cluster.gateways)
    )
    trial.figure("time until the lag metric falls", max(lowered), "s", at_most=10)
    await asyncio.sleep(5)

    def measure(evidence: Evidence) -> None:
        single = _delivery_delays(evidence, start, end, many=False)
        trial.figure("delay of single-job streams, p95", percentile(single, 0.95), "s", at_most=1)
        trial.figure("delay of single-job streams, p99", percentile(single, 0.99), "s")
        before = claim_waits(evidence.events, since=start - STEADY_S / 2, until=start)
        during = claim_waits(evidence.events, since=start, until=end)
        trial.figure("claim wait, p95 before", percentile(before, 0.95), "s")
        p95 = percentile(during, 0.95)
        trial.figure("claim wait, p95 during", p95, "s", at_most=3 * percentile(before, 0.95))
        late = _delivery_delays(evidence, start, end, many=True)
        trial.figure("longest delay of many-job streams", max(late, default=0.0), "s")

    trial.on_evidence(measure)


async def _is_lagging(gateway: Service) -> bool:
    return await gateway.metric(LAG_METRIC) >= 1


async def _has_caught_up(gateway: Service) -> bool:
    return await gateway.metric(LAG_METRIC) < 1


def _delivery_delays(evidence: Evidence, since: float, until: float, *, many: bool) -> list[float]:
    """Return the delivery delays of the events in an interval, in seconds."""
    return [
        shown.received - shown.time
        for stream in evidence.streams
        if _follows_many_jobs(stream) is many
        for shown in stream.shown
        if since <= shown.time < until
    ]


def _follows_many_jobs(stream: StreamLog) -> bool:
    return not stream.wanted.job_ids


SCENARIO = Scenario(
    id="F10",
    title="a foreign transaction with an assigned id stays open for 120 s",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    usual=170,
    usual_short=100,
)
