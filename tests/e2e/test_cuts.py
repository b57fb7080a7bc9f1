"""Streams miss no event after 400 cuts and a restart of both gateways."""

from __future__ import annotations

import os
import random
import signal
from asyncio import TaskGroup
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from headrace import Client
from headrace.v1.job_pb2 import JOB_STATE_FAILED, JOB_STATE_SUCCEEDED
from headrace.v1.job_service_pb2 import JobFilter
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import BEGINNING, Place
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation
from headrace_gateway.tokens import decode_cursor, encode_cursor
from support.cuts import ClientWatcher, Cuts, EventId, JobsWatcher, JobWatcher
from support.event_load import EventLoad
from support.processes import GatewayProcess, two_gateways
from support.scraping import scrape
from support.until import until

WATCHERS = 50
MIN_CUTS = 400
MIN_EVENTS = 20 * MIN_CUTS

# The limit of each wait, in seconds; it is high because the machine may be busy.
DEADLINE_S = 150


@pytest.fixture
async def gateways(
    settings: Settings, tmp_path: Path
) -> AsyncIterator[tuple[GatewayProcess, GatewayProcess]]:
    """Two gateways with a long shutdown grace period, and a worker with a long lease.

    Both settings allow for a busy machine, where gateways end streams slowly.
    """
    long_lease = settings.model_copy(
        update={"shutdown_grace": 30.0, "worker_lease": 15.0, "worker_beat": 5.0}
    )
    async with two_gateways(long_lease, logs=tmp_path) as gateways:
        yield gateways


@pytest.mark.timeout(400)
async def test_randomly_cut_watchers_receive_every_event_in_order(
    gateways: tuple[GatewayProcess, GatewayProcess], database: Database
):
    seed = int(os.environ.get("HEADRACE_TEST_SEED") or random.randrange(1_000_000))
    print(f"seed {seed}")  # noqa: T201 - shown when this fails
    rng = random.Random(seed)
    one, other = gateways
    async with database.transaction() as connection:
        installation = await read_installation(connection)
    start = encode_cursor(installation, DEFAULT_TENANT, *BEGINNING)
    place_of = partial(decode_cursor, installation, DEFAULT_TENANT)

    async with (
        Client([one.address, other.address]) as client,
        Cuts(gateways, rng) as cuts,
        TaskGroup() as tasks,
    ):
        load = EventLoad(client, database, rng)

        # The watchers, each with the SQL condition for the events that it must receive.
        proxies = [one.proxy.address, other.proxy.address]
        clients = [
            (ClientWatcher(proxies), "true"),
            (ClientWatcher(proxies[::-1], queues=["late"]), "j.queue = 'late'"),
            (ClientWatcher(proxies, queues=["south"]), "j.queue = 'south'"),
            (ClientWatcher(proxies[::-1], labels={"team": "two"}), "j.labels->>'team' = 'two'"),
        ]
        following = [tasks.create_task(watcher.follow()) for watcher, _ in clients]
        for watcher, _ in clients:
            await watcher.live.wait()

        # Watchers whose client resumes automatically: a filter, the SQL condition for its events,
        # and the number of watchers.
        batch, further = await load.submit_batch(MIN_CUTS), await load.submit_batch(MIN_CUTS)
        job_ids = [job.id for job in (*batch.jobs[: MIN_CUTS // 2], *further.jobs[: MIN_CUTS // 2])]
        ends = [JOB_STATE_SUCCEEDED, JOB_STATE_FAILED]
        filters = [
            (JobFilter(), "true", 2),
            (JobFilter(queues=["north"]), "j.queue = 'north'", 4),
            (JobFilter(queues=["late"]), "j.queue = 'late'", 4),
            (JobFilter(labels={"team": "one"}), "j.labels->>'team' = 'one'", 4),
            (JobFilter(states=ends), "e.state IN ('succeeded', 'failed')", 4),
            (JobFilter(batch_id=batch.id), f"j.batch_id = '{batch.id}'", 4),
            (JobFilter(job_ids=job_ids), f"j.id = ANY ('{{{','.join(job_ids)}}}')", 4),
        ]
        watchers = [
            (JobsWatcher(cuts, job_filter, start, place_of), rows)
            for job_filter, rows, count in filters
            for _ in range(count)
        ]
        job_watchers = [JobWatcher(cuts, lambda: rng.choice(load.jobs)) for _ in range(20)]
        assert len([*clients, *watchers, *job_watchers]) == WATCHERS
        following += [tasks.create_task(watcher.follow()) for watcher, _ in watchers]
        following += [tasks.create_task(job_watcher.follow()) for job_watcher in job_watchers]
        following += [tasks.create_task(cuts.cut_connections())]

        loading = tasks.create_task(load.run())
        gaps = []
        for share, gateway, by in ((0.3, one, signal.SIGTERM), (0.6, other, signal.SIGKILL)):
            await until(lambda s=share: load.has_events(MIN_EVENTS * s), within=DEADLINE_S)
            gaps.append(await read_gaps(gateway))
            await gateway.restart(by)
        await until(lambda: load.has_events(MIN_EVENTS), within=DEADLINE_S)
        await until(lambda: cuts.count >= MIN_CUTS, within=DEADLINE_S)
        cuts.end()
        load.stop()
        await loading

        expected = {rows: await read_events(database, rows) for _, rows in (*clients, *watchers)}
        for watcher, rows in (*clients, *watchers):
            count = len(expected[rows])
            await until(lambda w=watcher, c=count: len(w.seen) >= c, within=DEADLINE_S)
        gaps += [await read_gaps(gateway) for gateway in gateways]
        for task in following:
            task.cancel()

    for watcher, rows in (*clients, *watchers):
        assert watcher.seen == list(expected[rows]), rows
    for watcher, _ in watchers:
        check_cursors(watcher, expected["true"])
    last = dict(expected["true"].keys())
    for job_watcher in job_watchers:
        assert job_watcher.ended
        for job_id, seqs in job_watcher.seen.items():
            assert seqs == list(range(1, len(seqs) + 1))
            assert job_id not in job_watcher.ended or len(seqs) == last[job_id]
    assert set(gaps) == {0}


def check_cursors(watcher: JobsWatcher, places: dict[EventId, Place]) -> None:
    """Assert that each cursor is after the events received so far and before the next one."""
    for place, count in watcher.cursors:
        assert count == 0 or places[watcher.seen[count - 1]] <= place
        assert count == len(watcher.seen) or place < places[watcher.seen[count]]


async def read_events(database: Database, rows: str) -> dict[EventId, Place]:
    """Return the events that meet an SQL condition, in event log order."""
    async with database.transaction() as connection:
        events = await connection.execute(
            text(
                "SELECT e.job_id::text AS job_id, e.seq, e.xid::text::bigint AS xid, e.position "
                "FROM job_events e JOIN jobs j ON j.id = e.job_id "
                f"WHERE {rows} ORDER BY e.xid, e.position"
            )
        )
        return {(row.job_id, row.seq): (row.xid, row.position) for row in events}


async def read_gaps(gateway: GatewayProcess) -> float:
    """Return the number of gaps in the gateway's streams, according to its metrics."""
    return (await scrape(gateway.metrics_port))["headrace_stream_gaps_total"]
