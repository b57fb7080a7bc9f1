"""F11: the LISTEN connections are blackholed and every other wake-up is lost with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from faults.cluster import LISTEN, SUBSCRIBE, Plan
from faults.evidence import Evidence
from faults.measure import percentile
from faults.scenario import Scenario
from faults.trial import Trial, until
from support.proxy import Proxy

GONE_S = 60.0
SHORT_S = 20.0
# Seconds.
DELIVERED_S = 2.0
RECONNECTED_S = 15.0


async def run(trial: Trial) -> None:
    await trial.load()
    services = trial.cluster.services
    postgres = [link for service in services if (link := service.postgres)]
    redis = [link for service in services if (link := service.redis)]
    listening, subscribed = _count(postgres, LISTEN), _count(redis, SUBSCRIBE)
    # One each; and a subscription of whoever takes wake-ups over Redis as well.
    trial.figure("LISTEN connections", sum(listening.values()), at_least=len(services))
    trial.figure("SUBSCRIBE connections", sum(subscribed.values()), at_least=1)
    begin = time.time()
    async with trial.fault("no wake-up arrives", recovers_within=30):
        for link in postgres:
            link.hold(sent=LISTEN)
        for link in redis:
            link.hold(sent=SUBSCRIBE)
        await asyncio.sleep(SHORT_S if trial.short else GONE_S)
        end = time.time()
        for link in (*postgres, *redis):
            link.release()
    since = time.monotonic()
    back = await asyncio.gather(
        until(lambda: _all_answered(listening, LISTEN, since), within=60),
        until(lambda: _all_answered(subscribed, SUBSCRIBE, since), within=60),
    )
    trial.figure("LISTEN again after", back[0], "s", at_most=RECONNECTED_S)
    trial.figure("SUBSCRIBE again after", back[1], "s", at_most=RECONNECTED_S)
    await _one_by_one(trial, listening)
    await asyncio.sleep(5)

    def measure(evidence: Evidence) -> None:
        late = [
            shown.received - shown.time
            for stream in evidence.streams
            for shown in stream.shown
            if begin <= shown.time < end
        ]
        trial.figure("delivered p99", percentile(late, 0.99), "s")
        trial.figure("delivered max", max(late, default=float("nan")), "s", at_most=DELIVERED_S)

    trial.afterwards(measure)


async def _one_by_one(trial: Trial, links: dict[Proxy, int]) -> None:
    """Blackholes the connections that there are, while new ones come through."""
    trial.say("the LISTEN connections that there are get lost once more, and new ones do not")
    since = time.monotonic()
    for link in links:
        link.hold(sent=LISTEN, old=True)
    back = await until(lambda: _all_answered(links, LISTEN, since), within=60)
    trial.figure("found dead and replaced after", back, "s", at_most=RECONNECTED_S)
    for link in links:
        link.release()


def _count(links: Iterable[Proxy], mark: bytes) -> dict[Proxy, int]:
    """How many such connections each link has."""
    return {link: sum(mark in each.sent for each in link.connections) for link in links}


async def _all_answered(links: dict[Proxy, int], mark: bytes, since: float) -> bool:
    """Whether every link has as many with an answer behind this moment as it had."""
    return all(
        sum(mark in each.sent and (each.last_reply or 0) > since for each in link.connections)
        >= count
        for link, count in links.items()
    )


SCENARIO = Scenario(
    id="F11",
    title="the LISTEN connections are blackholed for 60 s, and all wake-ups with them",
    shows=("I1", "I2", "I3", "I4", "I7", "I10"),
    run=run,
    plan=Plan(links=frozenset({"gateway", "scheduler", "worker"})),
    usual=100,
    usual_short=80,
)
