"""chancy."""

from __future__ import annotations

import logging
import sys
from typing import Final

import uvloop
from chancy import Chancy, Job, Queue, Reference, Worker, job

from bench.peers import contract
from bench.peers.polling import INTERVAL_S

ENVIRONMENT: Final = contract.Environment.read()
QUEUE: Final = Queue(
    "noop",
    executor=Chancy.Executor.Async,
    # Concurrent jobs per worker, and the maximum number that it fetches at once.
    concurrency=500,
    # Poll again whenever a job has ended; NOTIFY announces new jobs.
    eager_polling=True,
)
# Seconds between two writes of ended jobs by a worker.
UPDATES_S: Final = INTERVAL_S if ENVIRONMENT.for_latency else 1
# The client's connections.
CONNECTIONS: Final = 16

UNFINISHED: Final = """
    SELECT count(*) FROM chancy_jobs WHERE state IN ('pending', 'running', 'retrying')
"""


@job(queue=QUEUE.name)
async def noop(n: int) -> None:  # noqa: ARG001
    """The handler."""
    contract.count_job()


class Control:
    """Serves the harness's requests."""

    def __init__(self, chancy: Chancy) -> None:
        self._chancy = chancy

    async def setup(self) -> None:
        await self._chancy.migrate()
        await self._chancy.declare(QUEUE)

    async def fill(self, count: int) -> None:
        """Create jobs, then update the planner statistics; autovacuum would run too late."""
        await contract.submit_in_batches(count, 1000, self._submit_many, at_once=2)
        async with self._chancy.pool.connection() as connection:
            await connection.execute("ANALYZE chancy_jobs")

    async def accept(self, count: int, in_flight: int) -> contract.Response:
        return {"seconds": await contract.submit_concurrently(count, in_flight, self._submit)}

    async def bulk(self, count: int, batch: int) -> contract.Response:
        return {
            "seconds": await contract.submit_in_batches(count, batch, self._submit_many, at_once=2)
        }

    async def unfinished(self) -> contract.Response:
        async with self._chancy.pool.connection() as connection:
            row = await (await connection.execute(UNFINISHED)).fetchone()
        return {"jobs": row[0]}

    async def latency(self, rate: float, seconds: float) -> contract.Response:
        return {"microseconds": await contract.open_loop(rate, seconds, self._submit_and_wait)}

    async def _submit(self, n: int) -> Reference:
        return await self._chancy.push(payload(n))

    async def _submit_many(self, numbers: range) -> None:
        async for _ in self._chancy.push_many([payload(n) for n in numbers]):
            pass

    async def _submit_and_wait(self, n: int) -> None:
        await self._chancy.wait_for_job(await self._submit(n), interval=INTERVAL_S)


def payload(n: int) -> Job:
    """Return a job."""
    return noop.job.with_kwargs(n=n)


def open_chancy(connections: int) -> Chancy:
    """Return a client with the default plugins: leader election, pruning, recovery, metrics."""
    log = logging.getLogger("chancy")
    log.setLevel(logging.WARNING)
    return Chancy(
        ENVIRONMENT.database_url,
        min_connection_pool_size=connections,
        max_connection_pool_size=connections,
        log=log,
    )


async def control() -> None:
    """Serve the harness's requests."""
    async with open_chancy(CONNECTIONS) as chancy:
        requests = Control(chancy)
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
    async with open_chancy(connections=10) as chancy:
        worker = Worker(chancy)
        worker.send_outgoing_interval = UPDATES_S
        async with worker:
            contract.report_ready()
            await worker.wait_for_shutdown()


if __name__ == "__main__":
    match sys.argv[1]:
        case "control":
            uvloop.run(control())
        case "worker":
            uvloop.run(work())
