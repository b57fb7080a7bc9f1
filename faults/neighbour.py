"""Another tenant, who works on the same platform all the while and must stay unseen."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import asyncpg

from faults.load import QUEUES, SHARDS
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import JobSpec
from headrace_core.domain.submission import NewJob
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.cancel import cancel_job
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.sql.database import Database

TENANT = "neighbour"
_EVERY_S = 0.5


async def live(settings: Settings, *, load: str, chance: random.Random) -> None:
    """Submits jobs that differ from those of a load in their tenant alone, for ever.

    They go straight into the database, as the gateways know one tenant so far, and are cancelled
    in the same transaction: nobody runs them.

    Args:
        settings: of a way to the database, past all links.
        load: whose labels they have.
        chance: decides the rest.
    """
    database = Database(settings, application="neighbour")
    try:
        while True:
            labels = {"load": load, "shard": str(chance.randrange(SHARDS))}
            spec = JobSpec(type="work", queue=chance.choice(QUEUES), labels=labels)
            job = NewJob(id=JobId(uuid7()), tenant=TENANT, spec=spec)
            # While the database is away there is no neighbour either.
            with suppress(Unavailable, asyncpg.PostgresError):
                async with database.transaction() as connection:
                    await submit_jobs(connection, [job])
                    await cancel_job(connection, tenant=TENANT, job_id=job.id)
            await asyncio.sleep(_EVERY_S)
    finally:
        await database.close()
