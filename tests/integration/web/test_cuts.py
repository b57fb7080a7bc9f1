"""Event streams that are cut at random bytes and resumed lose and repeat nothing.

`HEADRACE_TEST_CUTS=1000` selects a longer run.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import aclosing

import httpx2
import pytest

from support.gateway import FakeWorker
from support.sse import EventSource, SseMessage

CUTS = int(os.environ.get("HEADRACE_TEST_CUTS", "120"))
READERS = 3
# A response is cut after one of these numbers of bytes, in the middle of a message.
LIMITS = (50, 500, 1500, 4000, 12_000)
DEADLINE_S = 60 + CUTS
EVENTS_PER_JOB = 3


class Reader:
    """A browser whose connections are cut, and the events that it has received."""

    def __init__(self, url: str, *, cursor: str, chance: random.Random) -> None:
        self.received: list[tuple[str, int]] = []
        self.ids: set[str] = set()
        self.cutting = True
        self.source = EventSource(url, last_event_id=cursor, limit=self._limit)
        self._chance = chance

    def _limit(self) -> int | None:
        return self._chance.choice(LIMITS) if self.cutting else None

    async def read(self, expected: asyncio.Future[int]) -> None:
        """Read until the number of events is the expected one."""
        async with aclosing(self.source.messages(pause=0.0)) as messages:
            async for message in messages:
                self._take(message)
                if expected.done() and len(self.received) >= expected.result():
                    return

    def _take(self, message: SseMessage) -> None:
        self.ids.add(message.id)
        if message.event != "caught_up":
            self.received.append((message.data["jobId"], int(message.data["seq"])))


@pytest.mark.timeout(60 + 2 * DEADLINE_S)
async def test_cut_streams_lose_and_repeat_nothing(
    worker: FakeWorker, http: httpx2.AsyncClient
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    url = f"{str(http.base_url).rstrip('/')}/v1/events"
    async with aclosing(EventSource(url).messages()) as messages:
        cursor = (await anext(messages)).id
    readers = [Reader(url, cursor=cursor, chance=chance) for _ in range(READERS)]
    expected: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    jobs: list[str] = []
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.read(expected))
        while sum(reader.source.connects for reader in readers) < CUTS + READERS:
            jobs += await run_jobs(http, worker, count=chance.choice((1, 4, 20)))
        for reader in readers:
            reader.cutting = False
        jobs += await run_jobs(http, worker, count=1)
        expected.set_result(len(jobs) * EVENTS_PER_JOB)
        # Another event ends the wait of a reader that has already received the others.
        await run_jobs(http, worker, count=1)
    wanted = [(job, seq) for job in jobs for seq in range(1, EVENTS_PER_JOB + 1)]
    for reader in readers:
        assert len(set(reader.received)) == len(reader.received), f"seed {seed}"
        assert set(wanted) <= set(reader.received), f"seed {seed}"
        assert len(reader.received) <= len(wanted) + EVENTS_PER_JOB
        for job in jobs:
            seqs = [seq for one, seq in reader.received if one == job]
            assert seqs == [1, 2, 3], f"seed {seed}"
    # Some streams were cut between the events of one response of the gateway.
    assert any("~" in one for reader in readers for one in reader.ids)


async def run_jobs(http: httpx2.AsyncClient, worker: FakeWorker, *, count: int) -> list[str]:
    """Submit jobs in one commit and run them; return their ids."""
    body = {"jobs": [{"type": "square_sum", "payload": {"data": []}}] * count}
    response = await http.post("/v1/jobs:batch", json=body)
    assert response.status_code == 201, response.text
    ids = [job["id"] for job in response.json()["jobs"]]
    for job_id in ids:
        await worker.start_job(job_id)
        await worker.succeed(job_id)
    return ids
