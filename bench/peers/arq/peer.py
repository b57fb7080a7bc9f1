"""arq on Redis."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any
from uuid import uuid4

import uvloop
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.constants import default_queue_name, expires_extra_ms, job_key_prefix
from arq.jobs import serialize_job
from arq.worker import Worker, func

from bench.peers import contract

ENVIRONMENT = contract.Environment.read()
REDIS = RedisSettings.from_dsn(ENVIRONMENT.redis_url)
# Seconds between polls. arq has no notifications: workers poll for jobs, clients for results.
POLL_S = 0.005 if ENVIRONMENT.for_latency else 0.01
MAX_JOBS = 100


async def noop(_context: dict[Any, Any], n: int) -> None:  # noqa: ARG001
    """The handler."""
    contract.count_job()


class Control:
    """Serves the harness's requests."""

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis

    async def fill(self, count: int) -> None:
        """Write the entries of `enqueue_job` for many jobs per round trip."""
        for numbers in contract.batches(count, 1_000):
            now = time.time_ns() // 1_000_000
            async with self._redis.pipeline(transaction=False) as pipe:
                for n in numbers:
                    job_id = uuid4().hex
                    job = serialize_job("noop", (), {"n": n}, None, now)
                    pipe.psetex(job_key_prefix + job_id, expires_extra_ms, job)
                    pipe.zadd(default_queue_name, {job_id: now})
                await pipe.execute()

    async def accept(self, count: int, in_flight: int) -> contract.Response:
        """Submit jobs one at a time."""
        return {"seconds": await contract.submit_concurrently(count, in_flight, self._submit)}

    async def unfinished(self) -> contract.Response:
        """Count the ids in the queue. The transaction that stores a result removes the job's id."""
        return {"jobs": await self._redis.zcard(default_queue_name)}

    async def latency(self, rate: float, seconds: float) -> contract.Response:
        """Wait with arq's own polling."""
        return {"microseconds": await contract.open_loop(rate, seconds, self._submit_and_wait)}

    async def _submit(self, n: int) -> None:
        await self._redis.enqueue_job("noop", n=n)

    async def _submit_and_wait(self, n: int) -> None:
        job = await self._redis.enqueue_job("noop", n=n)
        assert job is not None
        await job.result(timeout=60, poll_delay=POLL_S)


async def control() -> None:
    """Serve the harness's requests."""
    redis = await create_pool(REDIS)
    requests = Control(redis)
    await contract.serving(
        {
            "setup": lambda: None,
            "fill": requests.fill,
            "accept": requests.accept,
            "bulk": lambda **_: {"unsupported": True},
            "unfinished": requests.unfinished,
            "latency": requests.latency,
        }
    )
    await redis.aclose()


async def on_startup(_context: dict[Any, Any]) -> None:
    """Report that the worker is polling."""
    contract.report_ready()


def worker() -> None:
    """Execute jobs."""
    logging.getLogger("arq").setLevel(logging.WARNING)
    # arq uses the event loop of the current thread.
    asyncio.set_event_loop(uvloop.new_event_loop())
    Worker(
        functions=[func(noop, name="noop")],
        redis_settings=REDIS,
        on_startup=on_startup,
        poll_delay=POLL_S,
        max_jobs=MAX_JOBS,
        log_results=False,
    ).run()


if __name__ == "__main__":
    match sys.argv[1]:
        case "control":
            uvloop.run(control())
        case "worker":
            worker()
