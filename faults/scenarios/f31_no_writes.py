"""F31: the database is read-only, and then the primary becomes a standby behind its proxy."""

from __future__ import annotations

import asyncio

from faults.cluster import Plan
from faults.scenario import Scenario
from faults.trial import Trial, until
from headrace_health.__main__ import probe
from support.read_only import set_read_only

# Duration of each fault, and longest recovery, in seconds.
FAULT_S = 10.0
MAX_RECOVERY_S = 10.0
# Longest time until the health services report the fault, in seconds.
MAX_NOTICE_S = 6.0


async def run(trial: Trial) -> None:
    cluster = trial.cluster
    await trial.load()
    async with trial.fault("the database is read-only", recovers_within=MAX_RECOVERY_S):
        await set_read_only(cluster.settings, read_only=True)
        await _measure_not_serving(trial)
        await asyncio.sleep(FAULT_S)
        # Sessions started during the fault stay open and read-only.
        await set_read_only(cluster.settings, read_only=False, end_sessions=False)
    await _wait_for_recovery(trial)
    async with trial.fault("the primary is demoted", recovers_within=MAX_RECOVERY_S):
        await cluster.postgres.demote()
        await _measure_not_serving(trial)
        await asyncio.sleep(FAULT_S)
        await cluster.postgres.promote()
    await _wait_for_recovery(trial)
    trial.expect_codes(only=frozenset({"UNAVAILABLE"}))


async def _measure_not_serving(trial: Trial) -> None:
    """Measure the time until every service reports NOT_SERVING."""

    async def all_not_serving() -> bool:
        statuses = await asyncio.gather(
            *(
                asyncio.to_thread(probe, service.address, service="", timeout=3)
                for service in trial.cluster.services
            )
        )
        return set(statuses) == {"NOT_SERVING"}

    notice_seconds = await until(all_not_serving, within=MAX_NOTICE_S * 2)
    trial.figure(
        "time until every service is NOT_SERVING", notice_seconds, "s", at_most=MAX_NOTICE_S
    )


async def _wait_for_recovery(trial: Trial) -> None:
    """Wait for the recovery, plus one window to measure it."""
    await asyncio.sleep(MAX_RECOVERY_S + 4)


SCENARIO = Scenario(
    id="F31",
    title="the database is read-only for 10 s; the primary is demoted behind its proxy for 10 s",
    shows=("I1", "I2", "I3", "I4", "I7", "I9", "I10"),
    run=run,
    plan=Plan(links=frozenset({"gateway", "scheduler", "worker"})),
    usual=95,
    usual_short=95,
)
