"""F9: writers take their transaction's id early, and commit late and in any order."""

from __future__ import annotations

import asyncio
import random

from faults.cluster import Plan
from faults.evidence import Wanted
from faults.scenario import Scenario
from faults.trial import Trial
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.sql.database import Database
from support.watching import open_writer

WRITERS = 32
WRITES = 2000
# Nobody runs these, so that each event is a writer's.
TYPE = "written"
# How long a writer holds its transaction open, at most, in seconds.
_HELD_S = 0.2


class _Writers:
    """Writes jobs, and cancels those of others, in transactions that stay open for a while."""

    def __init__(self, database: Database, chance: random.Random, writes: int) -> None:
        self._database = database
        self._chance = chance
        self._left = writes
        self._jobs: list[JobId] = []
        self.rolled_back = 0

    async def write(self) -> None:
        """One writer: goes on until there is nothing left to write."""
        chance = self._chance
        while self._left > 0:
            self._left -= 1
            writer = await open_writer(self._database)
            jobs = []
            await asyncio.sleep(chance.uniform(0, _HELD_S))
            try:
                # A job of somebody whose transaction began later, perhaps.
                if self._jobs and chance.random() < 0.4:
                    job_id = self._jobs.pop(chance.randrange(len(self._jobs)))
                    await cancel_job(writer.connection, tenant=DEFAULT_TENANT, job_id=job_id)
                    jobs.append(job_id)
                    await asyncio.sleep(chance.uniform(0, _HELD_S / 4))
                new = await writer.submit(
                    chance.randint(1, 3), type=TYPE, labels={"shard": str(chance.randrange(4))}
                )
                await asyncio.sleep(chance.uniform(0, _HELD_S / 4))
            except BaseException:
                await writer.roll_back()
                raise
            if chance.random() < 0.05:
                await writer.roll_back()
                self.rolled_back += 1
                self._jobs += jobs
            else:
                await writer.commit()
                self._jobs += new

    async def end(self) -> None:
        """Cancels what is left, so that every job has ended."""
        async with self._database.transaction() as connection:
            for job_id in self._jobs:
                await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)


async def run(trial: Trial) -> None:
    watchers = trial.watchers
    for number in range(6):
        watchers.follow(f"all {number + 1}")
    for shard in range(4):
        watchers.follow(f"shard {shard}", Wanted(labels={"shard": str(shard)}))
    watchers.follow_with_client("client's", Wanted(types=(TYPE,)))
    await watchers.are_live()
    settings = trial.cluster.settings.model_copy(update={"database_pool_size": WRITERS + 4})
    database = Database(settings, application="writers")
    try:
        writes = WRITES // 10 if trial.short else WRITES
        writers = _Writers(database, trial.chance, writes)
        async with (
            trial.fault(f"{WRITERS} writers, {writes} transactions"),
            asyncio.TaskGroup() as group,
        ):
            for _ in range(WRITERS):
                group.create_task(writers.write())
        await writers.end()
    finally:
        await database.close()
    trial.figure("transactions", writes)
    trial.figure("rolled back", writers.rolled_back)
    trial.afterwards(lambda evidence: trial.figure("events", len(evidence.events)))


SCENARIO = Scenario(
    id="F9",
    title="32 writers commit 2,000 transactions in another order than they began them",
    shows=("I1", "I2", "I3", "I4"),
    run=run,
    # What is written is read by the gateways alone.
    plan=Plan(schedulers=0, workers=0),
    usual=20,
    usual_short=10,
)
