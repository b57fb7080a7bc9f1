"""dramatiq on Redis."""

from __future__ import annotations

import signal
import sys
import threading

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from dramatiq.worker import Worker

from bench.peers import contract

ENVIRONMENT = contract.Environment.read()
THREADS = 4 if ENVIRONMENT.for_latency else 2
# Milliseconds. A worker has no other way to learn of a job than to poll, at the latest so soon.
IDLE = 5 if ENVIRONMENT.for_latency else 100
# How many messages a worker holds, instead of two for each thread.
PREFETCH = 200

broker = RedisBroker(url=ENVIRONMENT.redis_url)
broker.add_middleware(Results(backend=RedisBackend(client=broker.client), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(n: int) -> None:  # noqa: ARG001
    """The handler."""
    contract.count()


def fill(count: int) -> None:
    """Enqueues as `send` does, many messages in one round trip."""
    dispatch = broker.scripts["dispatch"]
    noop.send(0)  # the broker has asked Redis what it asks for once
    for numbers in contract.batches(count - 1, 1_000):
        with broker.client.pipeline(transaction=False) as pipe:
            broker.scripts["dispatch"] = lambda **call: dispatch(**call, client=pipe)
            for n in numbers:
                noop.send(n)
            pipe.execute()
    broker.scripts["dispatch"] = dispatch


def accept(count: int, in_flight: int) -> contract.Answer:
    """Single submits."""
    return {"seconds": contract.in_flight_threads(count, in_flight, noop.send)}


def unfinished() -> contract.Answer:
    """A message is acknowledged after its result was kept."""
    return {"jobs": broker.client.hlen(f"{broker.namespace}:{noop.queue_name}.msgs")}


def latency(rate: float, seconds: float) -> contract.Answer:
    """Waits as dramatiq has it: Redis tells of the result."""

    def submit_and_wait(n: int) -> None:
        noop.send(n).get_result(block=True, timeout=60_000)

    return {"microseconds": contract.open_loop_threads(rate, seconds, submit_and_wait)}


def worker() -> None:
    """Takes jobs."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    running = Worker(broker, worker_threads=THREADS, worker_timeout=IDLE)
    # What the environment variable dramatiq_queue_prefetch says.
    running.queue_prefetch = PREFETCH
    running.start()
    contract.ready()
    ended.wait()
    running.stop()
    broker.close()


if __name__ == "__main__":
    match sys.argv[1]:
        case "control":
            contract.serve(
                {
                    "setup": lambda: None,
                    "fill": fill,
                    "accept": accept,
                    "bulk": lambda **_: {"unsupported": True},
                    "unfinished": unfinished,
                    "latency": latency,
                }
            )
        case "worker":
            worker()
