"""Helpers of the gateway tests: errors as a client receives them, and a simulated worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from headrace_core.domain.attempt import AttemptEnd, AttemptKey, AttemptReport
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.domain.job import JobError
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.pool import NewWorker
from headrace_core.store.jobs.claim import claim_jobs
from headrace_core.store.jobs.end import end_attempts
from headrace_core.store.jobs.report import write_reports
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import register_worker

# The time limit of a call in seconds.
TIMEOUT = 30

STACK_TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in f'

SQUARE_SUM = HandlerSpec(
    type="square_sum",
    queue="math",
    description="Adds up squares.",
    payload_schema="""{
        "type": "object",
        "properties": {
            "data": {"type": "array", "items": {"type": "integer"}},
            "scale": {"type": "number", "minimum": 0}
        },
        "required": ["data"],
        "additionalProperties": false
    }""",
    result_schema='{"type": "integer"}',
)


@dataclass
class Refused:
    """An error as a client receives it."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    trailing: dict[str, Any] = field(default_factory=dict)


async def refused(call: Awaitable[object]) -> Refused:
    """Await a call that must fail with exactly one ErrorInfo; return its error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(TIMEOUT):
            await call
    return read_error(caught.value)


def read_error(error: grpc.aio.AioRpcError) -> Refused:
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    details = {}
    for packed in status.details:
        name = packed.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, name)()
        assert packed.Unpack(message)
        assert name not in details
        details[name] = json_format.MessageToDict(message)
    info = details.pop("ErrorInfo")
    assert info["domain"] == "headrace"
    return Refused(
        code=error.code(),
        message=error.details(),
        reason=info["reason"],
        metadata=info.get("metadata", {}),
        violations={
            violation.get("field", ""): violation["description"]
            for violation in details.get("BadRequest", {}).get("fieldViolations", [])
        },
        details=details,
        trailing=trailing,
    )


class FakeWorker:
    """A worker whose steps a test performs."""

    def __init__(self, database: Database, *handlers: HandlerSpec) -> None:
        self.id = WorkerId(uuid7())
        self._database = database
        self._handlers = handlers

    async def register(self) -> None:
        worker = NewWorker(
            id=self.id,
            tenant="default",
            name="fake",
            pool="fake",
            queues=(),
            slots=10,
            handlers=self._handlers,
        )
        async with self._database.transaction() as conn:
            await register_worker(conn, worker, lease=timedelta(minutes=10))

    async def start_job(self, job_id: str, attempt: int = 1) -> None:
        delivery = AttemptKey(JobId(UUID(job_id)), attempt)
        async with self._database.transaction() as conn:
            (job,) = await claim_jobs(conn, worker_id=self.id, deliveries=[delivery])
        assert job.key.attempt == attempt

    async def report(self, job_id: str, attempt: int = 1, **report: Any) -> None:
        written = AttemptReport(key=AttemptKey(JobId(UUID(job_id)), attempt), **report)
        async with self._database.transaction() as conn:
            assert await write_reports(conn, worker_id=self.id, reports=[written])

    async def succeed(self, job_id: str, result: str = "{}", attempt: int = 1) -> None:
        await self._finish(job_id, attempt, event=EventType.SUCCEEDED, result=result)

    async def fail(self, job_id: str, attempt: int = 1) -> None:
        error = JobError(
            type="ValueError", message="it broke", retryable=False, stack_trace=STACK_TRACE
        )
        await self._finish(job_id, attempt, event=EventType.FAILED, error=error)

    async def _finish(self, job_id: str, attempt: int, **finish: Any) -> None:
        end = AttemptEnd(key=AttemptKey(JobId(UUID(job_id)), attempt), **finish)
        async with self._database.transaction() as conn:
            assert await end_attempts(conn, worker_id=self.id, ends=[end])
