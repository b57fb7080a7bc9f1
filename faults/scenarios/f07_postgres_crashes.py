"""F7: PostgreSQL crashes and restarts three times under load."""

from __future__ import annotations

import asyncio

from faults.scenario import Scenario
from faults.trial import Trial

CRASHES = 3
# Longest recovery of the throughput, in seconds.
MAX_RECOVERY_S = 15.0


async def run(trial: Trial) -> None:
    await trial.load()
    for number in range(1, CRASHES + 1):
        async with trial.fault(f"crash {number}", recovers_within=MAX_RECOVERY_S):
            await trial.cluster.postgres.crash()
            await asyncio.sleep(trial.rng.uniform(0, 6))
            await trial.cluster.postgres.start()
        # Time for the recovery, plus one window to measure it.
        await asyncio.sleep(MAX_RECOVERY_S + 4)
    trial.expect_codes(only=frozenset({"UNAVAILABLE"}))


SCENARIO = Scenario(
    id="F7",
    title="PostgreSQL crashes (pg_ctl stop -m immediate) and restarts, 3 times",
    shows=("I1", "I2", "I3", "I4", "I7", "I9", "I10"),
    run=run,
    usual=95,
    usual_short=95,
)
