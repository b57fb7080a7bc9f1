"""F16: all links are blackholed one by one and restored in a different order."""

from __future__ import annotations

import asyncio

from faults.cluster import Plan
from faults.scenario import Scenario
from faults.trial import Trial

# Pause after each link, in seconds.
PAUSE_S = 2.0
SHORT_PAUSE_S = 1.0
# Time without any link, in seconds.
NO_LINKS_S = 15.0
MAX_RECOVERY_S = 30.0


async def run(trial: Trial) -> None:
    await trial.load()
    step = SHORT_PAUSE_S if trial.short else PAUSE_S
    links = [item for service in trial.cluster.services for item in service.links.items()]
    trial.rng.shuffle(links)
    async with trial.fault(f"{len(links)} links are blackholed", recovers_within=MAX_RECOVERY_S):
        for name, link in links:
            trial.log(f"blackholed: {name}")
            link.hold()
            await asyncio.sleep(step)
        await asyncio.sleep(step if trial.short else NO_LINKS_S)
        trial.rng.shuffle(links)
        for name, link in links:
            trial.log(f"restored: {name}")
            link.release()
            await asyncio.sleep(step)
    await asyncio.sleep(MAX_RECOVERY_S + 4)
    trial.expect_codes(only=frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "SILENT"}))


SCENARIO = Scenario(
    id="F16",
    title="all links are blackholed one by one and restored in random order",
    shows=("I1", "I2", "I3", "I4", "I7", "I10"),
    run=run,
    usual=140,
    usual_short=100,
    plan=Plan(links=frozenset({"gateway", "scheduler", "worker", "client"})),
)
