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
# Milliseconds between polls of an idle worker; dramatiq has no notifications.
IDLE_POLL_MS = 5 if ENVIRONMENT.for_latency else 100
# Messages that a worker prefetches; the default is two per thread.
PREFETCH = 200

broker = RedisBroker(url=ENVIRONMENT.redis_url)
broker.add_middleware(Results(backend=RedisBackend(client=broker.client), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(n: int) -> None:  # noqa: ARG001
    """The handler."""
    contract.count_job()


def fill(count: int) -> None:
    """Enqueue like `send`, with many messages per round trip."""
    dispatch = broker.scripts["dispatch"]
    noop.send(0)  # makes the broker run its one-time queries
    for numbers in contract.batches(count - 1, 1_000):
        with broker.client.pipeline(transaction=False) as pipe:
            broker.scripts["dispatch"] = lambda **call: dispatch(**call, client=pipe)
            for n in numbers:
                noop.send(n)
            pipe.execute()
    broker.scripts["dispatch"] = dispatch


def accept(count: int, in_flight: int) -> contract.Response:
    """Submit jobs one at a time."""
    return {"seconds": contract.submit_concurrently_in_threads(count, in_flight, noop.send)}


def unfinished() -> contract.Response:
    """Count the messages. A message is acknowledged once its result is stored."""
    return {"jobs": broker.client.hlen(f"{broker.namespace}:{noop.queue_name}.msgs")}


def latency(rate: float, seconds: float) -> contract.Response:
    """Wait for the result with a blocking Redis command."""

    def submit_and_wait(n: int) -> None:
        noop.send(n).get_result(block=True, timeout=60_000)

    return {"microseconds": contract.open_loop_in_threads(rate, seconds, submit_and_wait)}


def worker() -> None:
    """Execute jobs."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    running = Worker(broker, worker_threads=THREADS, worker_timeout=IDLE_POLL_MS)
    # The environment variable dramatiq_queue_prefetch sets the same attribute.
    running.queue_prefetch = PREFETCH
    running.start()
    contract.report_ready()
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
