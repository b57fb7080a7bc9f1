"""procrastinate."""

from __future__ import annotations

import sys
from typing import Final

import uvloop
from procrastinate import App, PsycopgConnector
from psycopg_pool import AsyncConnectionPool

from bench.peers import contract
from bench.peers.polling import OutstandingJobs

ENVIRONMENT: Final = contract.Environment.read()
# Concurrent jobs per worker.
CONCURRENCY: Final = 20
CONNECTIONS: Final = 16

UNFINISHED: Final = """
    SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')
"""
ENDED: Final = """
    SELECT id FROM procrastinate_jobs WHERE id = ANY(%s) AND status NOT IN ('todo', 'doing')
"""

app = App(connector=PsycopgConnector(conninfo=ENVIRONMENT.database_url))


@app.task(name="noop")
async def noop(n: int) -> None:  # noqa: ARG001
    """The handler."""
    contract.count_job()


class Control:
    """Serves the harness's requests."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool
        self._outstanding = OutstandingJobs(self._ended)

    async def setup(self) -> None:
        await app.schema_manager.apply_schema_async()

    async def fill(self, count: int) -> None:
        """Create jobs, then update the planner statistics; autovacuum would run too late."""
        await contract.submit_in_batches(count, 1000, self._submit_many, at_once=2)
        async with self._pool.connection() as connection:
            await connection.execute("ANALYZE procrastinate_jobs")

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
        return await noop.defer_async(n=n)

    async def _submit_many(self, numbers: range) -> None:
        await noop.batch_defer_async(*({"n": n} for n in numbers))

    async def _submit_and_wait(self, n: int) -> None:
        await self._outstanding.wait(await self._submit(n))

    async def _ended(self, jobs: list[int]) -> list[int]:
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(ENDED, (jobs,))).fetchall()
        return [job for (job,) in rows]


async def control() -> None:
    """Serve the harness's requests."""
    async with pool() as connections, app.open_async(connections):
        requests = Control(connections)
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
    """Execute jobs; NOTIFY announces new ones."""
    async with pool() as connections, app.open_async(connections):
        contract.report_ready()
        await app.run_worker_async(concurrency=CONCURRENCY)


def pool() -> AsyncConnectionPool:
    """Return a plain pool, because procrastinate's own pool checks a connection before each use."""
    return AsyncConnectionPool(
        ENVIRONMENT.database_url, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False
    )


if __name__ == "__main__":
    match sys.argv[1]:
        case "control":
            uvloop.run(control())
        case "worker":
            uvloop.run(work())
