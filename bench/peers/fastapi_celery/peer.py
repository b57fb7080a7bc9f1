"""FastAPI, Celery on Redis and a jobs table in PostgreSQL: the design that Headrace replaces."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import jwt
import uvicorn
import uvloop
import web
from celery.signals import worker_ready
from tasks import ENVIRONMENT, app, run

from bench.peers import contract

THREADS = 8
# Seconds between two polls of a client.
POLL_S = 0.1
# Jobs per poll.
JOBS_PER_POLL = 100
# Jobs per bulk request of this API.
BATCH = 100
IN_FLIGHT = 64
OWNER = "bench"


class Control:
    """Serves the harness's requests.

    Args:
        http: the HTTP session, with the server's address and the token.
        database: a direct connection, which prepares measurements.
    """

    def __init__(self, http: aiohttp.ClientSession, database: asyncpg.Connection) -> None:
        self._http = http
        self._database = database

    async def setup(self) -> None:
        """Create the table."""
        await self._database.execute(web.SCHEMA)

    async def fill(self, count: int) -> None:
        """Write rows and messages directly, without the server."""
        for numbers in contract.batches(count, 1_000):
            ids = [uuid4() for _ in numbers]
            await self._database.execute(
                web.INSERT_MANY, ids, OWNER, ["noop"] * len(ids), [f'{{"n": {n}}}' for n in numbers]
            )
            for n, job_id in zip(numbers, ids, strict=True):
                run.delay(str(job_id), "noop", {"n": n})

    async def accept(self, count: int, in_flight: int) -> contract.Response:
        """Submit jobs one at a time."""
        return {"seconds": await contract.submit_concurrently(count, in_flight, self._submit)}

    async def bulk(self, count: int, batch: int) -> contract.Response:
        """Submit jobs in bulk."""
        return {"seconds": await contract.submit_in_batches(count, batch, self._submit_many)}

    async def unfinished(self) -> contract.Response:
        """Count the rows that have not succeeded."""
        query = "SELECT count(*) FROM jobs WHERE status <> 'succeeded'"
        return {"jobs": await self._database.fetchval(query)}

    async def latency(self, rate: float, seconds: float) -> contract.Response:
        """Poll each job every 100 ms."""
        return {"microseconds": await contract.open_loop(rate, seconds, self._submit_and_wait)}

    async def end_to_end(self, count: int) -> contract.Response:
        """Send bulk requests, and poll the oldest outstanding jobs at the same time."""
        outstanding: deque[str] = deque()

        async def submit(numbers: range) -> None:
            outstanding.extend(await self._submit_many(numbers))

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(contract.submit_in_batches(count, BATCH, submit))
            group.create_task(self._watch(count, outstanding))
        return {"seconds": time.perf_counter() - start}

    async def _watch(self, count: int, outstanding: deque[str]) -> None:
        while count:
            page = [outstanding.popleft() for _ in range(min(JOBS_PER_POLL, len(outstanding)))]
            waiting = await self._unfinished_jobs(page) if page else []
            count -= len(page) - len(waiting)
            outstanding.extendleft(reversed(waiting))
            if waiting or not page:
                await asyncio.sleep(POLL_S)

    async def _unfinished_jobs(self, ids: list[str]) -> list[str]:
        """Return the jobs among `ids` that have not ended."""
        async with self._http.get("/jobs", params=[("ids", job_id) for job_id in ids]) as response:
            jobs = await response.json()
        ended = {job["id"] for job in jobs if job["status"] == "succeeded"}
        return [job_id for job_id in ids if job_id not in ended]

    async def _submit(self, n: int) -> str:
        async with self._http.post("/jobs", json=_job(n)) as response:
            return (await response.json())["id"]

    async def _submit_many(self, numbers: range) -> list[str]:
        async with self._http.post("/jobs/bulk", json=[_job(n) for n in numbers]) as response:
            return [job["id"] for job in await response.json()]

    async def _submit_and_wait(self, n: int) -> None:
        job_id = await self._submit(n)
        while True:
            await asyncio.sleep(POLL_S)
            async with self._http.get(f"/jobs/{job_id}") as response:
                if (await response.json())["status"] == "succeeded":
                    return


def _job(n: int) -> dict[str, Any]:
    return {"type": "noop", "payload": {"n": n}}


async def control() -> None:
    """Serve the harness's requests."""
    token = jwt.encode({"sub": OWNER}, web.SECRET, web.ALGORITHM)
    database = await asyncpg.connect(ENVIRONMENT.database_url)
    async with aiohttp.ClientSession(
        f"http://{ENVIRONMENT.target}",
        headers={"Authorization": f"Bearer {token}"},
        raise_for_status=True,
        connector=aiohttp.TCPConnector(limit=IN_FLIGHT),
    ) as http:
        requests = Control(http, database)
        await contract.serving(
            {
                "setup": requests.setup,
                "fill": requests.fill,
                "accept": requests.accept,
                "bulk": requests.bulk,
                "unfinished": requests.unfinished,
                "latency": requests.latency,
                "end_to_end": requests.end_to_end,
            }
        )
    await database.close()


class Server(uvicorn.Server):
    """A server that reports to the harness once it serves."""

    async def startup(self, *args: Any, **kwargs: Any) -> None:
        """Start listening, then report."""
        await super().startup(*args, **kwargs)
        contract.report_ready()


def server() -> None:
    """Serve the REST API."""
    host, port = ENVIRONMENT.target.rsplit(":", 1)
    settings = uvicorn.Config(
        web.app,
        host=host,
        port=int(port),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
    Server(settings).run()


@worker_ready.connect
def on_startup(**_: Any) -> None:
    """Report that the worker is receiving messages."""
    contract.report_ready()


def worker() -> None:
    """Execute jobs."""
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    pool = ["--pool", "threads", "--concurrency", str(THREADS)]
    app.worker_main(["worker", "--loglevel", "WARNING", *quiet, *pool])


if __name__ == "__main__":
    match sys.argv[1]:
        case "control":
            uvloop.run(control())
        case "server":
            server()
        case "worker":
            worker()
