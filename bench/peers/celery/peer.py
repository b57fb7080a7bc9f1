"""Celery with Redis as broker and result backend."""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from celery.signals import worker_ready

from bench.peers import contract

ENVIRONMENT = contract.Environment.read()
# A thread pool avoids the pipes of a prefork pool, and the main thread keeps reading messages.
# Under light load, jobs do not queue up, so the main thread can execute them.
POOL = (
    ["--pool", "solo"] if ENVIRONMENT.for_latency else ["--pool", "threads", "--concurrency", "2"]
)
# Messages per thread that a worker prefetches. A worker at this limit stops reading for up to 2 s.
PREFETCH = 1 if ENVIRONMENT.for_latency else 100

app = Celery("bench", broker=ENVIRONMENT.redis_url, backend=ENVIRONMENT.redis_url)
app.conf.update(
    worker_prefetch_multiplier=PREFETCH,
    worker_redirect_stdouts=False,  # the harness reads stdout
)


@app.task(name="noop")
def noop(n: int) -> None:  # noqa: ARG001
    """The handler."""
    contract.count_job()


@worker_ready.connect
def on_startup(**_: Any) -> None:
    """Report that the worker is receiving messages."""
    contract.report_ready()


class Control:
    """Serves the harness's requests."""

    def __init__(self) -> None:
        self._results: list[AsyncResult] = []

    def fill(self, count: int) -> None:
        """Submit jobs sequentially; threads would only compete for the interpreter."""
        for n in range(count):
            self._submit(n)

    def accept(self, count: int, in_flight: int) -> contract.Response:
        """Submit jobs one at a time."""
        return {"seconds": contract.submit_concurrently_in_threads(count, in_flight, self._submit)}

    def unfinished(self) -> contract.Response:
        """Count the missing results, because a message is acknowledged before its job runs."""
        keys = [app.backend.get_key_for_task(result.id) for result in self._results]
        stored = sum(
            app.backend.client.exists(*keys[numbers.start : numbers.stop])
            for numbers in contract.batches(len(keys), 1_000)
        )
        return {"jobs": len(keys) - stored}

    def latency(self, rate: float, seconds: float) -> contract.Response:
        """Wait for the result that the worker publishes."""

        def submit_and_wait(n: int) -> None:
            self._submit(n).get(timeout=60)

        return {"microseconds": contract.open_loop_in_threads(rate, seconds, submit_and_wait)}

    def _submit(self, n: int) -> AsyncResult:
        result = noop.delay(n=n)
        self._results.append(result)
        return result


def control() -> None:
    """Serve the harness's requests."""
    requests = Control()
    contract.serve(
        {
            "setup": lambda: None,
            "fill": requests.fill,
            "accept": requests.accept,
            "bulk": lambda **_: {"unsupported": True},
            "unfinished": requests.unfinished,
            "latency": requests.latency,
        }
    )


def worker() -> None:
    """Execute jobs."""
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main(["worker", "--loglevel", "WARNING", *quiet, *POOL])


if __name__ == "__main__":
    {"control": control, "worker": worker}[sys.argv[1]]()
