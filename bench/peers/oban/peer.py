"""Oban for Python."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Final

import uvloop
from oban import Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from bench.peers import contract
from bench.peers.polling import OutstandingJobs

ENVIRONMENT: Final = contract.Environment.read()
QUEUE: Final = "noop"
# Concurrent jobs per worker, and the maximum number that it fetches and acknowledges at once.
LIMIT: Final = 500
# The client's connections.
CONNECTIONS: Final = 32

UNFINISHED: Final = """
    SELECT count(*) FROM oban_jobs
    WHERE state IN ('available', 'scheduled', 'executing', 'retryable')
"""
ENDED: Final = """
    SELECT id FROM oban_jobs
    WHERE id = ANY(%s) AND state IN ('completed', 'discarded', 'cancelled')
"""


@worker(queue=QUEUE)
class Noop:
    """The handler."""

    async def process(self, _job: object) -> None:
        contract.count_job()


class Control:
    """Serves the harness's requests."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool
        self._oban = Oban(pool=pool)
        self._outstanding = OutstandingJobs(self._ended)

    async def setup(self) -> None:
        await install(self._pool)

    async def fill(self, count: int) -> None:
        """Create jobs, then update the planner statistics; autovacuum would run too late."""
        await contract.submit_in_batches(count, 1000, self._submit_many, at_once=2)
        async with self._pool.connection() as connection:
            await connection.execute("ANALYZE oban_jobs")

    async def accept(self, count: int, in_flight: int) -> contract.Response:
        return {"seconds": await contract.submit_concurrently(count, in_flight, self._submit)}

    async def bulk(self, count: int, batch: int) -> contract.Response:
        return {
            "seconds": await contract.submit_in_batches(count, batch, self._submit_many, at_once=2)
        }

    async def unfinished(self) -> contract.Response:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(UNFINISHED)).fetchone()
        return {"jobs": row[0]}

    async def latency(self, rate: float, seconds: float) -> contract.Response:
        return {"microseconds": await contract.open_loop(rate, seconds, self._submit_and_wait)}

    async def _submit(self, n: int) -> int:
        return (await self._oban.enqueue(Noop.new({"n": n}))).id

    async def _submit_many(self, numbers: range) -> None:
        await self._oban.enqueue_many(Noop.new({"n": n}) for n in numbers)

    async def _submit_and_wait(self, n: int) -> None:
        await self._outstanding.wait(await self._submit(n))

    async def _ended(self, jobs: list[int]) -> list[int]:
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(ENDED, (jobs,))).fetchall()
        return [job for (job,) in rows]


async def control() -> None:
    """Serve the harness's requests."""
    async with await Oban.create_pool(
        ENVIRONMENT.database_url, min_size=CONNECTIONS, max_size=CONNECTIONS
    ) as pool:
        requests = Control(pool)
        await contract.serving(
            {
                "setup": requests.setup,
                "fill": requests.fill,
                "accept": requests.accept,
                "bulk": requests.bulk,
                "unfinished": requests.unfinished,
                "latency": requests.latency,
            }
        )


async def work() -> None:
    """Execute jobs."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with (
        await Oban.create_pool(ENVIRONMENT.database_url) as pool,
        Oban(pool=pool, queues={QUEUE: LIMIT}),
    ):
        contract.report_ready()
        await stopped.wait()


if __name__ == "__main__":
    match sys.argv[1]:
        case "control":
            uvloop.run(control())
        case "worker":
            uvloop.run(work())
