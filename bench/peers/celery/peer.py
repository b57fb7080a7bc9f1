"""Celery with Redis as its broker and for results."""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from celery.signals import worker_ready

from bench.peers import contract

ENVIRONMENT = contract.Environment.read()
# Threads spare the pipes of a prefork pool, and the main thread reads on while they work. At rest
# nothing waits behind a job, so that it may as well run in the main thread.
POOL = (
    ["--pool", "solo"] if ENVIRONMENT.for_latency else ["--pool", "threads", "--concurrency", "2"]
)
# Messages that a worker holds for each thread. One that is full stops reading for up to 2 s.
PREFETCH = 1 if ENVIRONMENT.for_latency else 100

app = Celery("bench", broker=ENVIRONMENT.redis_url, backend=ENVIRONMENT.redis_url)
app.conf.update(
    worker_prefetch_multiplier=PREFETCH,
    worker_redirect_stdouts=False,  # the harness reads stdout
)


@app.task(name="noop")
def noop(n: int) -> None:  # noqa: ARG001
    """The handler."""
    contract.count()


@worker_ready.connect
def started(**_: Any) -> None:
    """The worker takes messages from now on."""
    contract.ready()


class Control:
    """What the harness asks of the client."""

    def __init__(self) -> None:
        self._results: list[AsyncResult] = []

    def fill(self, count: int) -> None:
        """One after the other: threads would only share the interpreter."""
        for n in range(count):
            self._submit(n)

    def accept(self, count: int, in_flight: int) -> contract.Answer:
        """Single submits."""
        return {"seconds": contract.in_flight_threads(count, in_flight, self._submit)}

    def unfinished(self) -> contract.Answer:
        """A message is acknowledged before its job runs, so only results tell."""
        keys = [app.backend.get_key_for_task(result.id) for result in self._results]
        kept = sum(
            app.backend.client.exists(*keys[numbers.start : numbers.stop])
            for numbers in contract.batches(len(keys), 1_000)
        )
        return {"jobs": len(keys) - kept}

    def latency(self, rate: float, seconds: float) -> contract.Answer:
        """Waits as Celery has it: a worker publishes the result."""

        def submit_and_wait(n: int) -> None:
            self._submit(n).get(timeout=60)

        return {"microseconds": contract.open_loop_threads(rate, seconds, submit_and_wait)}

    def _submit(self, n: int) -> AsyncResult:
        result = noop.delay(n=n)
        self._results.append(result)
        return result


def control() -> None:
    """Answers the harness."""
    asked = Control()
    contract.serve(
        {
            "setup": lambda: None,
            "fill": asked.fill,
            "accept": asked.accept,
            "bulk": lambda **_: {"unsupported": True},
            "unfinished": asked.unfinished,
            "latency": asked.latency,
        }
    )


def worker() -> None:
    """Takes jobs."""
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main(["worker", "--loglevel", "WARNING", *quiet, *POOL])


if __name__ == "__main__":
    {"control": control, "worker": worker}[sys.argv[1]]()
