"""F9: writers get their transaction ids early and commit late, in any order."""

from __future__ import annotations

import asyncio
import random

from faults.cluster import Plan
from faults.evidence import StreamFilter
from faults.scenario import Scenario
from faults.trial import Trial
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.sql.database import Database
from support.watching import open_writer

WRITERS = 32
WRITES = 2000
# A job type without handlers, so that only the writers cause events.
TYPE = "written"
# Longest time that a writer keeps its transaction open, in seconds.
_MAX_OPEN_S = 0.2


class _Writers:
    """Submits jobs and cancels other writers' jobs, in transactions that stay open for a while."""

    def __init__(self, database: Database, rng: random.Random, writes: int) -> None:
        self._database = database
        self._rng = rng
        self._left = writes
        self._jobs: list[JobId] = []
        self.rolled_back = 0

    async def write(self) -> None:
        """Run one writer until all transactions have ended."""
        rng = self._rng
        while self._left > 0:
            self._left -= 1
            writer = await open_writer(self._database)
            jobs = []
            await asyncio.sleep(rng.uniform(0, _MAX_OPEN_S))
            try:
                # The job may come from a transaction that started later.
                if self._jobs and rng.random() < 0.4:
                    job_id = self._jobs.pop(rng.randrange(len(self._jobs)))
                    await cancel_job(writer.connection, tenant=DEFAULT_TENANT, job_id=job_id)
                    jobs.append(job_id)
                    await asyncio.sleep(rng.uniform(0, _MAX_OPEN_S / 4))
                submitted = await writer.submit(
                    rng.randint(1, 3), type=TYPE, labels={"shard": str(rng.randrange(4))}
                )
                await asyncio.sleep(rng.uniform(0, _MAX_OPEN_S / 4))
            except BaseException:
                await writer.roll_back()
                raise
            if rng.random() < 0.05:
                await writer.roll_back()
                self.rolled_back += 1
                self._jobs += jobs
            else:
                await writer.commit()
                self._jobs += submitted

    async def end(self) -> None:
        """Cancel the remaining jobs, so that every job ends."""
        async with self._database.transaction() as connection:
            for job_id in self._jobs:
                await cancel_job(connection, tenant=DEFAULT_TENANT, job_id=job_id)


async def run(trial: Trial) -> None:
    watchers = trial.watchers
    for number in range(6):
        watchers.follow(f"all {number + 1}")
    for shard in range(4):
        watchers.follow(f"shard {shard}", StreamFilter(labels={"shard": str(shard)}))
    watchers.follow_with_client("client's", StreamFilter(types=(TYPE,)))
    await watchers.wait_until_live()
    settings = trial.cluster.settings.model_copy(update={"database_pool_size": WRITERS + 4})
    database = Database(settings, application="writers")
    try:
        writes = WRITES // 10 if trial.short else WRITES
        writers = _Writers(database, trial.rng, writes)
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
    trial.figure("transactions rolled back", writers.rolled_back)
    trial.on_evidence(lambda evidence: trial.figure("events", len(evidence.events)))


SCENARIO = Scenario(
    id="F9",
    title="32 writers commit 2,000 transactions in a different order than they started them",
    shows=("I1", "I2", "I3", "I4"),
    run=run,
    # Only the gateways read the jobs.
    plan=Plan(schedulers=0, workers=0),
    usual=20,
    usual_short=10,
)
