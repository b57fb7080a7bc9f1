"""Each error becomes a status with an ErrorInfo and matching details, without driver messages."""

from __future__ import annotations

from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from headrace.v1 import error_pb2
from headrace_core.domain.errors import (
    CursorInvalid,
    InvalidRequest,
    JobNotFound,
    LimitExceeded,
    PageTokenInvalid,
    PayloadInvalid,
    QuotaExceeded,
    RequestIdConflict,
    ShuttingDown,
    SlowConsumer,
    StateConflict,
    TenantStateConflict,
    TokensThrottled,
    TooManySubscriptions,
    Unavailable,
    Violation,
)
from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import JobState
from headrace_core.store.sql.group_commit import Overloaded
from headrace_gateway.calls.statuses import CallError, UndecodableRequest, to_call_error

JOB = JobId(UUID("0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15"))
DETAILS = {
    f"google.rpc.{name}": getattr(error_details_pb2, name)
    for name in ("ErrorInfo", "BadRequest", "PreconditionFailure", "ResourceInfo", "RetryInfo")
}
CODES = grpc.StatusCode


def call_error(error: Exception) -> CallError:
    return to_call_error(error, request_id="request-1")


def details(error: CallError) -> dict[str, Message]:
    status = status_pb2.Status.FromString(error.serialize())
    assert status.code == error.code.value[0]
    assert status.message == error.message
    unpacked = {}
    for packed in status.details:
        name = packed.type_url.rpartition("/")[2]
        assert name not in unpacked
        message = DETAILS[name]()
        packed.Unpack(message)
        unpacked[name.rpartition(".")[2]] = message
    return unpacked


@pytest.mark.parametrize(
    ("error", "code", "reason", "metadata", "other_details"),
    [
        (
            InvalidRequest([Violation("a", "b")]),
            CODES.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
            {},
            {"BadRequest"},
        ),
        (
            PayloadInvalid("square_sum", [Violation("job.payload", "x")]),
            CODES.INVALID_ARGUMENT,
            "PAYLOAD_INVALID",
            {"type": "square_sum"},
            {"BadRequest"},
        ),
        (
            PageTokenInvalid(),
            CODES.INVALID_ARGUMENT,
            "PAGE_TOKEN_INVALID",
            {},
            {"BadRequest"},
        ),
        (CursorInvalid(), CODES.INVALID_ARGUMENT, "CURSOR_INVALID", {}, {"BadRequest"}),
        (
            UndecodableRequest("headrace.v1.GetJobRequest"),
            CODES.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
            {},
            set(),
        ),
        (
            JobNotFound(JOB),
            CODES.NOT_FOUND,
            "JOB_NOT_FOUND",
            {"job_id": str(JOB)},
            {"ResourceInfo"},
        ),
        (
            RequestIdConflict("order-17", kind="job", existing_id=str(JOB)),
            CODES.ALREADY_EXISTS,
            "REQUEST_ID_CONFLICT",
            {"request_id": "order-17", "job_id": str(JOB)},
            {"ResourceInfo"},
        ),
        (
            RequestIdConflict("order-17", kind="batch", existing_id=str(JOB)),
            CODES.ALREADY_EXISTS,
            "REQUEST_ID_CONFLICT",
            {"request_id": "order-17", "batch_id": str(JOB)},
            {"ResourceInfo"},
        ),
        (
            StateConflict(
                JOB,
                action="requeue",
                state=JobState.SUCCEEDED,
                allowed=(JobState.FAILED, JobState.CANCELLED),
            ),
            CODES.FAILED_PRECONDITION,
            "STATE_CONFLICT",
            {"job_id": str(JOB), "state": "SUCCEEDED", "allowed": "FAILED, CANCELLED"},
            {"PreconditionFailure"},
        ),
        (
            LimitExceeded(
                "job.payload",
                limit="HEADRACE_MAX_PAYLOAD_BYTES",
                maximum=262144,
                actual=300000,
                unit="bytes",
            ),
            CODES.INVALID_ARGUMENT,
            "LIMIT_EXCEEDED",
            {"limit": "HEADRACE_MAX_PAYLOAD_BYTES", "maximum": "262144", "actual": "300000"},
            {"BadRequest"},
        ),
        (
            TooManySubscriptions(10, actual=11),
            CODES.FAILED_PRECONDITION,
            "LIMIT_EXCEEDED",
            {"limit": "HEADRACE_MAX_SUBSCRIPTIONS", "maximum": "10", "actual": "11"},
            {"PreconditionFailure"},
        ),
        (
            TenantStateConflict("acme", action="resume", state="deleting"),
            CODES.FAILED_PRECONDITION,
            "STATE_CONFLICT",
            {"tenant": "acme", "state": "DELETING"},
            {"PreconditionFailure"},
        ),
        (
            QuotaExceeded("waiting_jobs", limit=10, used=9, retry_after=1.0),
            CODES.RESOURCE_EXHAUSTED,
            "QUOTA_EXCEEDED",
            {"quota": "waiting_jobs", "limit": "10", "used": "9"},
            {"RetryInfo"},
        ),
        (
            TokensThrottled(0.5),
            CODES.RESOURCE_EXHAUSTED,
            "TOKENS_THROTTLED",
            {},
            {"RetryInfo"},
        ),
        (
            SlowConsumer(60.0, ("after_seq", "7")),
            CODES.RESOURCE_EXHAUSTED,
            "SLOW_CONSUMER",
            {"after_seq": "7"},
            {"RetryInfo"},
        ),
        (
            Unavailable("postgresql"),
            CODES.UNAVAILABLE,
            "UNAVAILABLE",
            {"dependency": "postgresql"},
            {"RetryInfo"},
        ),
        (
            Overloaded(),
            CODES.UNAVAILABLE,
            "UNAVAILABLE",
            {"dependency": "postgresql"},
            {"RetryInfo"},
        ),
        (ShuttingDown(), CODES.UNAVAILABLE, "SHUTTING_DOWN", {}, {"RetryInfo"}),
        (TimeoutError("db 10.0.0.1"), CODES.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", {}, set()),
        (
            ZeroDivisionError("SELECT secret FROM host"),
            CODES.INTERNAL,
            "INTERNAL",
            {"request_id": "request-1"},
            set(),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_error_becomes_its_status(
    error: Exception,
    code: grpc.StatusCode,
    reason: str,
    metadata: dict[str, str],
    other_details: set[str],
):
    status = call_error(error)
    assert status.code is code
    unpacked = details(status)
    info = unpacked.pop("ErrorInfo")
    assert info.domain == "headrace"
    assert info.reason == reason
    assert f"ERROR_REASON_{reason}" in error_pb2.ErrorReason.keys()  # noqa: SIM118 - no mapping
    assert dict(info.metadata) == metadata
    assert set(unpacked) == other_details


def test_status_lists_all_violations():
    status = call_error(InvalidRequest([Violation("job.type", "must be"), Violation("x", "y")]))
    bad_request = details(status)["BadRequest"]
    assert [(v.field, v.description) for v in bad_request.field_violations] == [
        ("job.type", "must be"),
        ("x", "y"),
    ]
    assert status.message == "job.type: must be; x: y"


def test_state_conflict_names_the_allowed_states():
    error = StateConflict(
        JOB,
        action="requeue",
        state=JobState.RUNNING,
        allowed=(JobState.FAILED, JobState.CANCELLED),
    )
    status = call_error(error)
    assert status.message == f"job {JOB} is RUNNING; to requeue it, it must be FAILED or CANCELLED"
    (violation,) = details(status)["PreconditionFailure"].violations
    assert (violation.type, violation.subject) == ("STATE", str(JOB))


@pytest.mark.parametrize("error", [TimeoutError, OSError, KeyError, RuntimeError, AssertionError])
def test_status_of_an_unexpected_error_omits_its_text(error: type[Exception]):
    status = call_error(error("INSERT INTO jobs … at db.internal:5432"))
    assert b"INSERT" not in status.serialize()
    assert b"db.internal" not in status.serialize()


@pytest.mark.parametrize("text", ["x", "é", "🏞"])
def test_status_of_many_violations_fits_into_its_header(text: str):
    status = call_error(
        InvalidRequest([Violation(f"jobs[{n}].{text * 500}", text * 500) for n in range(1000)])
    )
    # The message is percent-encoded and the details are base64. Clients accept 8 KiB.
    assert len(status.message.encode()) * 3 + len(status.serialize()) * 4 / 3 < 7500
    last = details(status)["BadRequest"].field_violations[-1]
    assert last.description.endswith("more violations")


def test_forty_violations_are_listed_in_full():
    status = call_error(
        InvalidRequest([Violation(f"jobs[{n}].priority", "must be -100 to 100") for n in range(40)])
    )
    assert len(details(status)["BadRequest"].field_violations) == 40
