"""The loop that measures the queues for metrics."""

from __future__ import annotations

from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.depths import QueueDepth, queue_depths
from headrace_core.store.sql.database import Database
from headrace_scheduler.loops.measure_queues import MeasureQueues
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.service import Scheduler
from support.jobs import set_column, submit, submit_many
from support.scraping import scrape_until
from support.workers import register, start


async def test_queues_are_measured_by_queued_and_running_jobs(database: Database) -> None:
    worker = await register(database, "test", queues=["mail", "idle"])
    await submit_many(database, 3, queue="mail")
    oldest = await submit(database, queue="mail", tenant="acme")
    await set_column(database, oldest.id, "queue_time = now() - interval '1 hour'")
    await start(database, worker, await submit(database, queue="mail"))
    gauges = Gauges()
    wait = await MeasureQueues(database=database, gauges=gauges).run_once()
    depths = {depth.queue: depth for depth in gauges.queues}
    assert set(depths) == {"", "default", "idle", "mail"}
    assert (depths["mail"].queued, depths["mail"].running) == (4, 1)
    assert 3600 <= depths["mail"].oldest_age < 7200
    assert depths["idle"] == QueueDepth("idle", queued=0, running=0, oldest_age=0)
    assert wait >= 10


async def test_queues_that_no_worker_names_are_one_sum(database: Database) -> None:
    await register(database, "test", queues=["mail"])
    for queue in ("client-1", "client-2"):
        await submit(database, queue=queue)
    async with database.snapshot(statement_timeout=30) as connection:
        depths = await queue_depths(connection, limit=100)
    assert {depth.queue: depth.queued for depth in depths} == {"": 2, "default": 0, "mail": 0}


async def test_queues_above_the_limit_are_part_of_the_sum(database: Database) -> None:
    await register(database, "test", queues=["a", "b"])
    await submit(database, queue="b")
    async with database.snapshot(statement_timeout=30) as connection:
        depths = await queue_depths(connection, limit=1)
    assert {depth.queue: depth.queued for depth in depths} == {"": 1, "a": 0}


async def test_only_the_leader_reports_queues(settings: Settings, database: Database) -> None:
    await submit(database, queue="default")
    settings = settings.model_copy(update={"scheduler_metrics_address": "127.0.0.1:0"})
    scheduler = Scheduler(settings)
    await scheduler.start()
    try:
        samples = await scrape_until(
            scheduler.metrics_port,
            lambda samples: 'headrace_queue_jobs{queue="",state="queued"}' in samples,
        )
    finally:
        await scheduler.stop()
    assert samples['headrace_queue_jobs{queue="",state="queued"}'] == 1
    assert samples["headrace_leading"] == 1
    assert samples["headrace_serving"] == 1
    assert samples['headrace_dependency_available{dependency="postgresql"}'] == 1
