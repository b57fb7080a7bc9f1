"""Another tenant on the same platform; no stream of the load may deliver its jobs."""

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

TENANT = "other-tenant"
_INTERVAL_S = 0.5


async def submit_jobs_of_other_tenant(settings: Settings, *, load: str, rng: random.Random) -> None:
    """Submit jobs that differ from a load's jobs only in their tenant, until cancelled.

    Without access control, the gateways serve only the default tenant, so the jobs are written
    directly to the database. Each job is cancelled in the same transaction, so that no worker runs
    it.

    Args:
        settings: the settings with the database's own URL, which bypasses the links.
        load: the name of the load, for the labels.
        rng: the source of all random decisions.
    """
    database = Database(settings, application="other-tenant")
    try:
        while True:
            labels = {"load": load, "shard": str(rng.randrange(SHARDS))}
            spec = JobSpec(type="work", queue=rng.choice(QUEUES), labels=labels)
            job = NewJob(id=JobId(uuid7()), tenant=TENANT, spec=spec)
            # Write no jobs while the database is down.
            with suppress(Unavailable, asyncpg.PostgresError):
                async with database.transaction() as connection:
                    await submit_jobs(connection, [job])
                    await cancel_job(connection, tenant=TENANT, job_id=job.id)
            await asyncio.sleep(_INTERVAL_S)
    finally:
        await database.close()
