"""The Celery task, which updates the job's row before and after the handler."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
from celery import Celery
from psycopg.types.json import Jsonb

from bench.peers import contract

ENVIRONMENT = contract.Environment.read()

# The row contains the result, so Celery does not need to store it.
app = Celery("bench", broker=ENVIRONMENT.redis_url)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=100,  # a full worker stops reading for up to 2 s
    worker_redirect_stdouts=False,  # the harness reads stdout
)

_thread_local = threading.local()


def noop(n: int) -> None:  # noqa: ARG001
    """The handler."""
    contract.count_job()


_HANDLERS = {"noop": noop}


@app.task(name="run")
def run(job_id: str, kind: str, payload: dict[str, Any]) -> None:
    """Run a job and commit each transition.

    Args:
        job_id: the id of the row.
        kind: the name of the handler.
        payload: the arguments of the handler.
    """
    database = _connection()
    # With autocommit, each statement is a transaction.
    database.execute(
        "UPDATE jobs SET status = 'running', started_at = now() WHERE id = %s", (job_id,)
    )
    result = _HANDLERS[kind](**payload)
    database.execute(
        "UPDATE jobs SET status = 'succeeded', result = %s, finished_at = now() WHERE id = %s",
        (Jsonb(result), job_id),
    )


def _connection() -> psycopg.Connection:
    """Return the connection of this thread."""
    if not hasattr(_thread_local, "connection"):
        _thread_local.connection = psycopg.connect(
            ENVIRONMENT.database_url, autocommit=True, prepare_threshold=1
        )
    return _thread_local.connection
