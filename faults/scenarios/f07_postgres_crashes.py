"""F7: PostgreSQL crashes and comes back, three times, under load."""

from __future__ import annotations

import asyncio

from faults.scenario import Scenario
from faults.trial import Trial

CRASHES = 3
# Seconds until the throughput must be back.
RECOVERY_S = 15.0


async def run(trial: Trial) -> None:
    await trial.load()
    for number in range(1, CRASHES + 1):
        async with trial.fault(f"crash {number}", recovers_within=RECOVERY_S):
            await trial.cluster.postgres.crash()
            await asyncio.sleep(trial.chance.uniform(0, 6))
            await trial.cluster.postgres.start()
        # The time in which it must recover, and a window more to measure that it has.
        await asyncio.sleep(RECOVERY_S + 4)
    trial.codes(at_most=frozenset({"UNAVAILABLE"}))


SCENARIO = Scenario(
    id="F7",
    title="PostgreSQL crashes (pg_ctl stop -m immediate) and is started again, 3 times",
    shows=("I1", "I2", "I3", "I4", "I7", "I9", "I10"),
    run=run,
    usual=95,
    usual_short=95,
)
