"""SAQ on Redis."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import uvloop
from saq import Job, Queue, Status, Worker
from saq.job import TERMINAL_STATUSES
from saq.utils import now

from bench.peers import contract

ENVIRONMENT = contract.Environment.read()
CONCURRENCY = 100
# Seconds until a client queries the job itself, in case a published message was lost.
LOST_MESSAGE_S = 5.0


async def noop(_context: Any, *, n: int) -> None:  # noqa: ARG001
    """The handler."""
    contract.count_job()


class Control:
    """Serves the harness's requests.

    Args:
        queue: the connected queue.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def fill(self, count: int) -> None:
        """Write the same entries as `enqueue`, for many jobs per round trip."""
        queue = self._queue
        for numbers in contract.batches(count, 1_000):
            async with queue.redis.pipeline(transaction=False) as pipe:
                for n in numbers:
                    job = Job("noop", kwargs={"n": n}, queue=queue)
                    job.queued, job.status = now(), Status.QUEUED
                    pipe.set(job.id, queue.serialize(job))
                    pipe.zadd(queue.namespace("incomplete"), {job.id: 0})
                    pipe.rpush(queue.namespace("queued"), job.id)
                await pipe.execute()

    async def accept(self, count: int, in_flight: int) -> contract.Response:
        """Submit each job with a call of its own, `in_flight` at a time."""
        return {"seconds": await contract.submit_concurrently(count, in_flight, self._submit)}

    async def unfinished(self) -> contract.Response:
        """Count the incomplete ids. The transaction that stores a result removes the job's id."""
        return {"jobs": await self._queue.count("incomplete")}

    async def latency(self, rate: float, seconds: float) -> contract.Response:
        """Wait for the messages that workers publish.

        `Queue.apply` is slower: it polls, and sleeps once more after it has received the end.
        """
        # The subscription ends with its last listener, so keep one listener. The notification for
        # its job shows that the subscription is active.
        first = Job("noop", kwargs={"n": 0}, queue=self._queue)
        subscribed = asyncio.Event()
        kept = asyncio.create_task(
            self._queue.listen([first.key], lambda *_: subscribed.set(), timeout=None)
        )
        while not subscribed.is_set():
            await self._queue.notify(first)
            await asyncio.sleep(0.01)
        try:
            return {"microseconds": await contract.open_loop(rate, seconds, self._submit_and_wait)}
        finally:
            kept.cancel()

    async def _submit(self, n: int) -> None:
        await self._queue.enqueue("noop", n=n)

    async def _submit_and_wait(self, n: int) -> None:
        job = Job("noop", kwargs={"n": n}, queue=self._queue)
        ended = asyncio.create_task(
            self._queue.listen(
                [job.key], lambda _, status: status in TERMINAL_STATUSES, LOST_MESSAGE_S
            )
        )
        await self._queue.enqueue(job)
        try:
            await ended
        except TimeoutError:
            await job.refresh(until_complete=LOST_MESSAGE_S)


async def control() -> None:
    """Serve the harness's requests."""
    queue = Queue.from_url(ENVIRONMENT.redis_url)
    requests = Control(queue)
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
    await queue.disconnect()


async def on_startup(_context: Any) -> None:
    """Report that the worker executes jobs."""
    contract.report_ready()


async def worker() -> None:
    """Execute jobs."""
    logging.getLogger("saq").setLevel(logging.WARNING)
    queue = Queue.from_url(ENVIRONMENT.redis_url)
    functions = [("noop", noop)]
    await Worker(queue, functions, concurrency=CONCURRENCY, startup=on_startup).start()
    await queue.disconnect()


if __name__ == "__main__":
    uvloop.run({"control": control, "worker": worker}[sys.argv[1]]())
