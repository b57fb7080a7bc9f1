"""PgQueuer."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from datetime import timedelta
from typing import Final

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.adapters.drivers.asyncpg import AsyncpgPoolDriver
from pgqueuer.core.completion import CompletionWatcher
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import JobId

from bench.peers import contract

ENVIRONMENT: Final = contract.Environment.read()
ENTRYPOINT: Final = "noop"
# Jobs that a worker fetches and acknowledges at once. An acknowledgement waits up to 120 ms for a
# full batch, so a batch of 1 has the lowest latency.
BATCH: Final = 1 if ENVIRONMENT.for_latency else 500
# The client's connections.
CONNECTIONS: Final = 16
# The time for which the client collects notifications before it queries the states of its jobs.
DEBOUNCE: Final = timedelta(milliseconds=2)


class Control:
    """Serves the harness's requests."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._queries = Queries.from_asyncpg_pool(pool)

    async def setup(self) -> None:
        await self._queries.install()

    async def fill(self, count: int) -> None:
        """Create jobs, then update the planner statistics; autovacuum would run too late."""
        await contract.submit_in_batches(count, 1000, self._submit_many)
        await self._pool.execute("ANALYZE pgqueuer")

    async def accept(self, count: int, in_flight: int) -> contract.Response:
        return {"seconds": await contract.submit_concurrently(count, in_flight, self._submit)}

    async def bulk(self, count: int, batch: int) -> contract.Response:
        return {
            "seconds": await contract.submit_in_batches(count, batch, self._submit_many, at_once=2)
        }

    async def unfinished(self) -> contract.Response:
        """Count the rows. The transaction that logs the end of a job deletes its row."""
        return {"jobs": await self._pool.fetchval("SELECT count(*) FROM pgqueuer")}

    async def latency(self, rate: float, seconds: float) -> contract.Response:
        """Wait with PgQueuer's watcher, which receives changes through NOTIFY."""
        async with (
            AsyncpgPoolDriver(self._pool) as driver,
            CompletionWatcher(driver, queries=self._queries, debounce=DEBOUNCE) as watcher,
        ):

            async def submit_and_wait(n: int) -> None:
                await watcher.wait_for(await self._submit(n))

            return {"microseconds": await contract.open_loop(rate, seconds, submit_and_wait)}

    async def _submit(self, n: int) -> JobId:
        (job,) = await self._queries.enqueue(ENTRYPOINT, payload(n))
        return job

    async def _submit_many(self, numbers: range) -> None:
        count = len(numbers)
        await self._queries.enqueue(
            [ENTRYPOINT] * count, [payload(n) for n in numbers], [0] * count
        )


def payload(n: int) -> bytes:
    """Return the payload of a job."""
    return json.dumps({"n": n}).encode()


async def control() -> None:
    """Serve the harness's requests."""
    async with asyncpg.create_pool(
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
    async with asyncpg.create_pool(ENVIRONMENT.database_url, min_size=2) as pool:
        queuer = PgQueuer.from_asyncpg_pool(pool)

        @queuer.entrypoint(ENTRYPOINT)
        async def noop(_job: Job) -> None:
            contract.count_job()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queuer.shutdown.set)
        contract.report_ready()
        await queuer.run(batch_size=BATCH)


if __name__ == "__main__":
    match sys.argv[1]:
        case "control":
            uvloop.run(control())
        case "worker":
            uvloop.run(work())
