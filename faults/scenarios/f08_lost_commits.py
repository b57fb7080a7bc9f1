"""F8: the gateway's link is cut after submits are committed, before the reply arrives."""

from __future__ import annotations

import asyncio

from faults.cluster import Plan
from faults.scenario import Scenario
from faults.trial import Trial

DURATION_S = 60.0
SHORT_DURATION_S = 15.0
# The share of INSERT statements whose reply is lost.
SHARE = 0.05
RATE = 100.0


async def run(trial: Trial) -> None:
    load = await trial.load(rate=RATE)
    links = [link for gateway in trial.cluster.gateways if (link := gateway.postgres)]
    cuts = 0

    def loses_reply() -> bool:
        nonlocal cuts
        lost = trial.rng.random() < SHARE
        cuts += lost
        return lost

    before = len(load.history)
    async with trial.fault(f"{SHARE:.0%} of the commit replies are lost", recovers_within=30):
        for link in links:
            link.dooms = loses_reply
        await asyncio.sleep(SHORT_DURATION_S if trial.short else DURATION_S)
        for link in links:
            link.dooms = lambda: False
    during = load.history[before:]
    await asyncio.sleep(5)
    hit = sum(bool(submission.codes) for submission in during)
    trial.figure("links cut", cuts, at_least=1)
    trial.figure("submits whose reply was lost", hit, at_least=1)
    trial.figure("share of all submits", hit / len(during), at_least=SHARE / 2)
    trial.expect_codes(only=frozenset({"UNAVAILABLE"}))


SCENARIO = Scenario(
    id="F8",
    title="the link is cut between COMMIT and its reply, on 5 % of the submits",
    shows=("I1", "I2", "I3", "I4", "I7", "I9", "I10"),
    run=run,
    usual=90,
    usual_short=60,
    plan=Plan(links=frozenset({"gateway"}), statement=b"INSERT INTO jobs"),
)
