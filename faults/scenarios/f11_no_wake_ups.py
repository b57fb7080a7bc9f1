"""F11: the connections for wake-ups (LISTEN and SUBSCRIBE) are blackholed."""

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

BLACKHOLED_S = 60.0
SHORT_BLACKHOLED_S = 20.0
# Longest delay of an event, and longest time until a connection is replaced, in seconds.
MAX_DELAY_S = 2.0
MAX_RECONNECT_S = 15.0


async def run(trial: Trial) -> None:
    await trial.load()
    services = trial.cluster.services
    postgres = [link for service in services if (link := service.postgres)]
    redis = [link for service in services if (link := service.redis)]
    listening, subscribed = (
        _count_connections(postgres, LISTEN),
        _count_connections(redis, SUBSCRIBE),
    )
    # Each service has a LISTEN connection; some also receive wake-ups over Redis.
    trial.figure("LISTEN connections", sum(listening.values()), at_least=len(services))
    trial.figure("SUBSCRIBE connections", sum(subscribed.values()), at_least=1)
    start = time.time()
    async with trial.fault("no wake-up arrives", recovers_within=30):
        for link in postgres:
            link.hold(sent=LISTEN)
        for link in redis:
            link.hold(sent=SUBSCRIBE)
        await asyncio.sleep(SHORT_BLACKHOLED_S if trial.short else BLACKHOLED_S)
        end = time.time()
        for link in (*postgres, *redis):
            link.release()
    since = time.monotonic()
    reconnect_times = await asyncio.gather(
        until(lambda: _all_received_data(listening, LISTEN, since), within=60),
        until(lambda: _all_received_data(subscribed, SUBSCRIBE, since), within=60),
    )
    trial.figure("time until LISTEN works again", reconnect_times[0], "s", at_most=MAX_RECONNECT_S)
    trial.figure(
        "time until SUBSCRIBE works again", reconnect_times[1], "s", at_most=MAX_RECONNECT_S
    )
    await _blackhole_existing_links(trial, listening)
    await asyncio.sleep(5)

    def measure(evidence: Evidence) -> None:
        late = [
            shown.received - shown.time
            for stream in evidence.streams
            for shown in stream.shown
            if start <= shown.time < end
        ]
        trial.figure("delay of events, p99", percentile(late, 0.99), "s")
        trial.figure(
            "delay of events, max", max(late, default=float("nan")), "s", at_most=MAX_DELAY_S
        )

    trial.on_evidence(measure)


async def _blackhole_existing_links(trial: Trial, links: dict[Proxy, int]) -> None:
    """Blackhole only the existing connections; new connections work."""
    trial.log("the existing LISTEN connections are blackholed, new ones work")
    since = time.monotonic()
    for link in links:
        link.hold(sent=LISTEN, old=True)
    reconnect_times = await until(lambda: _all_received_data(links, LISTEN, since), within=60)
    trial.figure(
        "time until dead connections are replaced", reconnect_times, "s", at_most=MAX_RECONNECT_S
    )
    for link in links:
        link.release()


def _count_connections(links: Iterable[Proxy], mark: bytes) -> dict[Proxy, int]:
    """Return the number of marked connections on each link."""
    return {link: sum(mark in each.sent for each in link.connections) for link in links}


async def _all_received_data(links: dict[Proxy, int], mark: bytes, since: float) -> bool:
    """Return whether `count` connections of each link have received data after `since`."""
    return all(
        sum(mark in each.sent and (each.last_reply or 0) > since for each in link.connections)
        >= count
        for link, count in links.items()
    )


SCENARIO = Scenario(
    id="F11",
    title="the connections for wake-ups (LISTEN, SUBSCRIBE) are blackholed for 60 s",
    shows=("I1", "I2", "I3", "I4", "I7", "I10"),
    run=run,
    plan=Plan(links=frozenset({"gateway", "scheduler", "worker"})),
    usual=100,
    usual_short=80,
)
