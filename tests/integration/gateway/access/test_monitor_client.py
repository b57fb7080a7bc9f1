"""Workers, queues, overviews and histories with the Python client and the command line."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import timedelta

from headrace import Client, JobState, SyncClient
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import parse_id
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support import workers
from support.command_line import Headrace
from support.gateway import TIMEOUT


async def run_one_of_two(client: Client, database: Database) -> str:
    """Submit two jobs, start one of them, and return its id."""
    worker_id = await workers.register(database, queues=["mail"], slots=4)
    job = await client.submit("test", queue="mail")
    await client.submit("test", queue="mail")
    await workers.claim(database, worker_id, [AttemptKey(parse_id(job.id), 1)])
    return job.id


async def test_client_reads_workers_queues_and_history(target: str, database: Database) -> None:
    async with Client(target) as client:
        job_id = await run_one_of_two(client, database)
        [worker] = [worker async for worker in client.workers()]
        [queue] = [queue async for queue in client.queues()]
        history = await client.history(timedelta(minutes=10), step=120, queue="mail")
    assert (worker.slots, worker.busy_slots, worker.live) == (4, 1, True)
    assert [job.job_id for job in worker.running_jobs] == [job_id]
    assert worker.start_time is not None
    assert (queue.queue, queue.slots) == ("mail", 4)
    assert queue.states == {JobState.QUEUED: 1, JobState.RUNNING: 1}
    assert queue.oldest_queue_time is not None
    assert (len(history.points), history.step) == (5, timedelta(minutes=2))
    assert (history.points[0].submitted, history.points[0].wait.p50) == (0, None)


async def test_client_follows_the_overview(target: str, database: Database) -> None:
    async with Client(target) as client, asyncio.timeout(TIMEOUT):
        await run_one_of_two(client, database)
        async with aclosing(client.watch_overview(interval=0.1)) as overviews:
            overview = await anext(overviews)
            assert overview.states == {JobState.QUEUED: 1, JobState.RUNNING: 1}
            assert overview.oldest_job is not None
            assert (overview.busy_slots, overview.wait.count) == (1, 1)
            assert len(overview.rates) == 2
            await client.submit("test", queue="mail")
            while overview.states[JobState.QUEUED] < 2:
                overview = await anext(overviews)


async def test_synchronous_client_reads_the_overview(target: str, gateway: Gateway) -> None:
    def read() -> tuple[int, int]:
        with SyncClient(target) as client:
            overview = next(client.watch_overview())
            return overview.slots, len(list(client.workers())) + len(list(client.queues()))

    assert await asyncio.to_thread(read) == (0, 0)


async def test_commands_show_workers_and_queues(
    headrace: Headrace, target: str, database: Database
) -> None:
    assert (await headrace("workers")).out == "no workers\n"
    assert (await headrace("queues")).out == "no queues\n"
    async with Client(target) as client:
        job_id = await run_one_of_two(client, database)
    shown = (await headrace("workers")).out
    assert "fake" in shown
    assert "live" in shown
    [worker] = json.loads((await headrace("workers", "-o", "json")).out)
    assert [job["job_id"] for job in worker["running_jobs"]] == [job_id]
    shown = (await headrace("queues")).out.splitlines()
    assert shown[0].split() == [
        *("QUEUE", "QUEUED", "RUNNING", "OLDEST", "QUEUED", "WORKERS", "SLOTS")
    ]
    assert shown[1].split()[0] == "mail"
