"""taskiq on a Redis stream."""

from __future__ import annotations

import sys

import uvloop
from redis.asyncio import Redis
from taskiq import TaskiqEvents, TaskiqMessage, TaskiqState
from taskiq.cli.worker.args import WorkerArgs
from taskiq.cli.worker.run import start_listen
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench.peers import contract

ENVIRONMENT = contract.Environment.read()
# Seconds between polls of a client; taskiq does not notify clients.
POLL_S = 0.005
KEEP_RESULTS = 3600

broker = (
    RedisStreamBroker(ENVIRONMENT.redis_url)
    .with_result_backend(
        RedisAsyncResultBackend(
            ENVIRONMENT.redis_url, result_ex_time=KEEP_RESULTS, serializer=ORJSONSerializer()
        )
    )
    .with_serializer(ORJSONSerializer())
)


@broker.task(task_name="noop")
async def noop(n: int) -> None:  # noqa: ARG001
    """The handler."""
    contract.count_job()


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
def on_startup(_state: TaskiqState) -> None:
    """Report that the worker reads the stream."""
    contract.report_ready()


async def fill(count: int) -> None:
    """Write the entries of `kiq` for many jobs per round trip."""
    async with Redis(connection_pool=broker.connection_pool) as redis:
        for numbers in contract.batches(count, 1_000):
            async with redis.pipeline(transaction=False) as pipe:
                for n in numbers:
                    message = TaskiqMessage(
                        task_id=broker.id_generator(),
                        task_name="noop",
                        labels={},
                        args=[],
                        kwargs={"n": n},
                    )
                    data = broker.formatter.dumps(message).message
                    pipe.xadd(broker.queue_name, {b"data": data})
                await pipe.execute()


async def accept(count: int, in_flight: int) -> contract.Response:
    """Submit jobs one at a time."""
    return {"seconds": await contract.submit_concurrently(count, in_flight, noop.kiq)}


async def unfinished() -> contract.Response:
    """Count the unacknowledged messages. The worker acknowledges after storing the result."""
    async with Redis(connection_pool=broker.connection_pool) as redis:
        [group] = await redis.xinfo_groups(broker.queue_name)
    return {"jobs": group["pending"] + group["lag"]}


async def latency(rate: float, seconds: float) -> contract.Response:
    """Wait with taskiq's own polling."""

    async def submit_and_wait(n: int) -> None:
        task = await noop.kiq(n)
        await task.wait_result(check_interval=POLL_S, timeout=60)

    return {"microseconds": await contract.open_loop(rate, seconds, submit_and_wait)}


async def control() -> None:
    """Serve requests; the first broker to start creates the stream and its group."""
    await broker.startup()
    await contract.serving(
        {
            "setup": lambda: None,
            "fill": fill,
            "accept": accept,
            "bulk": lambda **_: {"unsupported": True},
            "unfinished": unfinished,
            "latency": latency,
        }
    )
    await broker.shutdown()


if __name__ == "__main__":
    match sys.argv[1]:
        case "control":
            uvloop.run(control())
        case "worker":
            # `taskiq worker --workers 1 --no-parse` runs this function in its child process.
            start_listen(WorkerArgs(broker=broker, modules=[], no_parse=True))
