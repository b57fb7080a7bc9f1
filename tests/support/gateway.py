"""Helpers of the gateway tests: the errors that a client receives, and a simulated worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.job import JobError
from headrace_core.domain.job_log import LogChunk, LogLine
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.jobs.logs import write_logs
from headrace_core.store.sql.database import Database
from support import workers

# The time limit of a call in seconds, generous because the machine may be busy.
TIMEOUT = 60

STACK_TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in f'

_CODES = {code.value[0]: code for code in grpc.StatusCode}

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
class RpcError:
    """An error that a client receives."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    trailing: dict[str, Any] = field(default_factory=dict)


async def rpc_error(call: Awaitable[object]) -> RpcError:
    """Await a call that must fail with exactly one ErrorInfo; return its error."""
    with pytest.raises(grpc.aio.AioRpcError) as excinfo:
        async with asyncio.timeout(TIMEOUT):
            await call
    return read_error(excinfo.value)


def read_error(error: grpc.aio.AioRpcError) -> RpcError:
    """Return a gRPC error with its decoded details."""
    trailing = dict(error.trailing_metadata())
    status = read_status(trailing["grpc-status-details-bin"])
    return replace(status, code=error.code(), message=error.details(), trailing=trailing)


def read_status(raw: bytes) -> RpcError:
    """Return the error in a serialized google.rpc.Status."""
    status = status_pb2.Status.FromString(raw)
    details = {}
    for packed in status.details:
        name = packed.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, name)()
        assert packed.Unpack(message)
        assert name not in details
        details[name] = json_format.MessageToDict(message)
    info = details.pop("ErrorInfo")
    assert info["domain"] == "headrace"
    return RpcError(
        code=_CODES[status.code],
        message=status.message,
        reason=info["reason"],
        metadata=info.get("metadata", {}),
        violations={
            violation.get("field", ""): violation["description"]
            for violation in details.get("BadRequest", {}).get("fieldViolations", [])
        },
        details=details,
        trailing={},
    )


class FakeWorker:
    """A worker that acts only when a test calls a method. Methods take the job ids of the API."""

    id: WorkerId

    def __init__(self, database: Database, *handlers: HandlerSpec) -> None:
        self._database = database
        self._handlers = handlers

    async def register(self) -> None:
        self.id = await workers.register(self._database, *self._handlers)

    async def start_job(self, job_id: str, attempt: int = 1) -> None:
        deliveries = [AttemptKey(JobId(UUID(job_id)), attempt)]
        assert await workers.claim(self._database, self.id, deliveries)

    async def report(self, job_id: str, attempt: int = 1, **fields: Any) -> None:
        report = AttemptReport(key=AttemptKey(JobId(UUID(job_id)), attempt), **fields)
        assert await workers.report(self._database, self.id, report)

    async def log(self, job_id: str, *lines: LogLine, last: int, attempt: int = 1) -> None:
        """Store lines of an attempt; `last` is the number of the last one."""
        async with self._database.statement() as connection:
            chunk = LogChunk(AttemptKey(JobId(UUID(job_id)), attempt), last, lines)
            await write_logs(connection, worker_id=self.id, chunks=[chunk])

    async def succeed(self, job_id: str, result: str = "{}", attempt: int = 1) -> None:
        await self._write_end(job_id, attempt, EventType.SUCCEEDED, result=result)

    async def fail(self, job_id: str, attempt: int = 1) -> None:
        error = JobError(
            type="ValueError", message="it broke", retryable=False, stack_trace=STACK_TRACE
        )
        await self._write_end(job_id, attempt, EventType.FAILED, error=error)

    async def _write_end(self, job_id: str, attempt: int, event: EventType, **fields: Any) -> None:
        end = workers.attempt_end(JobId(UUID(job_id)), attempt, event, **fields)
        assert await workers.write_ends(self._database, self.id, end)
