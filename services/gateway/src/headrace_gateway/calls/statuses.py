"""Statuses: the only module that turns errors into gRPC statuses.

Every status has a google.rpc.ErrorInfo, and other google.rpc details that suit the error. Clients
never see driver messages, SQL or host names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from headrace.v1 import error_pb2
from headrace_core.domain.errors import (
    AccessConflict,
    AccessNotFound,
    CredentialChanged,
    CursorExpired,
    CursorInvalid,
    InvalidRequest,
    JobNotFound,
    LimitExceeded,
    LoginThrottled,
    PageTokenInvalid,
    PayloadInvalid,
    PermissionDenied,
    QuotaExceeded,
    RequestIdConflict,
    ShuttingDown,
    SlowConsumer,
    StateConflict,
    SubscriptionConflict,
    SubscriptionNotFound,
    SubscriptionTaken,
    TenantStateConflict,
    TenantSuspended,
    TokensThrottled,
    TooManySubscriptions,
    Unauthenticated,
    Unavailable,
    Violation,
)
from headrace_core.domain.limits import MAX_DOCUMENT_DEPTH

DOMAIN: Final = "headrace"
DETAILS_KEY: Final = "grpc-status-details-bin"

# A status is sent in trailing metadata, and many clients accept only 8 KiB of that. A status
# contains its message twice: percent-encoded, which can triple its size, and in the details.
_MAX_MESSAGE_BYTES: Final = 700
_MAX_VIOLATIONS_BYTES: Final = 2600
_MAX_DESCRIPTION_BYTES: Final = 300
_MAX_METADATA_BYTES: Final = 200

_RETRY_AFTER: Final = Duration(seconds=1)
# The shortest retry delay of a QuotaExceeded status, in seconds.
_MIN_RETRY: Final = 0.01


@dataclass(frozen=True, slots=True)
class CallError:
    """An error as a client receives it."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    details: Sequence[Message] = ()

    def serialize(self) -> bytes:
        """Return the google.rpc.Status for `grpc-status-details-bin`."""
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=DOMAIN, metadata=dict(self.metadata)
        )
        status = status_pb2.Status(
            # The value of a grpc.StatusCode is (number, name).
            code=self.code.value[0],
            message=self.message,
            details=[_pack(info), *(_pack(detail) for detail in self.details)],
        )
        return bytes(status.SerializeToString())


class UndecodableRequest(Exception):
    """The bytes of a request cannot be decoded."""

    def __init__(self, message_name: str) -> None:
        super().__init__(
            f"the request is not a {message_name}, or a document in it is nested deeper than "
            f"{MAX_DOCUMENT_DEPTH} levels"
        )


def to_call_error(error: Exception, *, request_id: str) -> CallError:
    """Return the status of an error.

    Args:
        error: raised by a link, a use case or a stream.
        request_id: the request id of the call. The message of an internal error contains it, so
            that operators find the log lines of the call.
    """
    text = _shorten(str(error), _MAX_MESSAGE_BYTES)
    match error:
        case InvalidRequest():
            reason, metadata = _invalid_request_reason(error)
            return CallError(
                grpc.StatusCode.INVALID_ARGUMENT,
                reason,
                text,
                metadata,
                [_bad_request(error.violations)],
            )
        case UndecodableRequest():
            return CallError(grpc.StatusCode.INVALID_ARGUMENT, _INVALID_ARGUMENT, text)
        case JobNotFound():
            job_id = str(error.job_id)
            return CallError(
                grpc.StatusCode.NOT_FOUND,
                _reason(error_pb2.ERROR_REASON_JOB_NOT_FOUND),
                text,
                {"job_id": job_id},
                [_resource_info("job", job_id, text)],
            )
        case RequestIdConflict():
            return CallError(
                grpc.StatusCode.ALREADY_EXISTS,
                _reason(error_pb2.ERROR_REASON_REQUEST_ID_CONFLICT),
                text,
                {
                    "request_id": _shorten(error.request_id, _MAX_METADATA_BYTES),
                    f"{error.kind}_id": error.existing_id,
                },
                [_resource_info(error.kind, error.existing_id, text)],
            )
        case StateConflict():
            return CallError(
                grpc.StatusCode.FAILED_PRECONDITION,
                _reason(error_pb2.ERROR_REASON_STATE_CONFLICT),
                text,
                {
                    "job_id": str(error.job_id),
                    "state": error.state.name,
                    "allowed": ", ".join(state.name for state in error.allowed),
                },
                [_precondition_failure(str(error.job_id), text)],
            )
        case LimitExceeded():
            # Clients would retry RESOURCE_EXHAUSTED, and the same request would fail again until
            # the tenant deletes something.
            is_quota = isinstance(error, TooManySubscriptions)
            return CallError(
                grpc.StatusCode.FAILED_PRECONDITION
                if is_quota
                else grpc.StatusCode.INVALID_ARGUMENT,
                _reason(error_pb2.ERROR_REASON_LIMIT_EXCEEDED),
                text,
                {
                    "limit": error.limit,
                    "maximum": str(error.maximum),
                    "actual": str(error.actual),
                },
                [
                    _precondition_failure(error.field, text)
                    if is_quota
                    else _bad_request([Violation(error.field, text)])
                ],
            )
        case CursorExpired():
            return CallError(
                grpc.StatusCode.OUT_OF_RANGE,
                _reason(error_pb2.ERROR_REASON_CURSOR_EXPIRED),
                text,
                {"oldest_cursor": error.oldest_cursor},
            )
        case SlowConsumer():
            return CallError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                _reason(error_pb2.ERROR_REASON_SLOW_CONSUMER),
                text,
                dict([error.place]),
                [error_details_pb2.RetryInfo(retry_delay=_RETRY_AFTER)],
            )
        case SubscriptionNotFound():
            return CallError(
                grpc.StatusCode.NOT_FOUND,
                _reason(error_pb2.ERROR_REASON_SUBSCRIPTION_NOT_FOUND),
                text,
                {"subscription": error.name},
                [_resource_info("subscription", error.name, text)],
            )
        case SubscriptionConflict():
            return CallError(
                grpc.StatusCode.ALREADY_EXISTS,
                _reason(error_pb2.ERROR_REASON_SUBSCRIPTION_CONFLICT),
                text,
                {"subscription": error.name},
                [_resource_info("subscription", error.name, text)],
            )
        case SubscriptionTaken():
            return CallError(
                grpc.StatusCode.ABORTED,
                _reason(error_pb2.ERROR_REASON_SUBSCRIPTION_TAKEN),
                text,
                {"subscription": error.name},
            )
        case CredentialChanged():
            return CallError(
                grpc.StatusCode.UNAUTHENTICATED,
                _reason(error_pb2.ERROR_REASON_CREDENTIAL_CHANGED),
                text,
                dict([error.place]),
            )
        case Unauthenticated():
            return CallError(
                grpc.StatusCode.UNAUTHENTICATED,
                _reason(error_pb2.ERROR_REASON_UNAUTHENTICATED),
                text,
            )
        case LoginThrottled() | TokensThrottled():
            throttled = (
                error_pb2.ERROR_REASON_LOGIN_THROTTLED
                if isinstance(error, LoginThrottled)
                else error_pb2.ERROR_REASON_TOKENS_THROTTLED
            )
            return CallError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                _reason(throttled),
                text,
                details=[
                    error_details_pb2.RetryInfo(
                        retry_delay=Duration(seconds=math.ceil(error.retry_after))
                    )
                ],
            )
        case TenantSuspended():
            return CallError(
                grpc.StatusCode.PERMISSION_DENIED,
                _reason(error_pb2.ERROR_REASON_TENANT_SUSPENDED),
                text,
                {"tenant": _shorten(error.tenant, _MAX_METADATA_BYTES)},
            )
        case PermissionDenied():
            return CallError(
                grpc.StatusCode.PERMISSION_DENIED,
                _reason(error_pb2.ERROR_REASON_PERMISSION_DENIED),
                text,
                {"right": _shorten(error.right, _MAX_METADATA_BYTES)},
            )
        case AccessNotFound():
            name = _shorten(error.name, _MAX_METADATA_BYTES)
            return CallError(
                grpc.StatusCode.NOT_FOUND,
                _reason(error_pb2.ERROR_REASON_ACCESS_NOT_FOUND),
                text,
                {"kind": error.kind, "name": name},
                [_resource_info(error.kind, name, text)],
            )
        case AccessConflict():
            name = _shorten(error.name, _MAX_METADATA_BYTES)
            return CallError(
                grpc.StatusCode.ALREADY_EXISTS,
                _reason(error_pb2.ERROR_REASON_ACCESS_CONFLICT),
                text,
                {"kind": error.kind, "name": name},
                [_resource_info(error.kind, name, text)],
            )
        case TenantStateConflict():
            tenant = _shorten(error.tenant, _MAX_METADATA_BYTES)
            return CallError(
                grpc.StatusCode.FAILED_PRECONDITION,
                _reason(error_pb2.ERROR_REASON_STATE_CONFLICT),
                text,
                {"tenant": tenant, "state": error.state.upper()},
                [_precondition_failure(tenant, text)],
            )
        case QuotaExceeded():
            wait = Duration()
            wait.FromTimedelta(timedelta(seconds=max(_MIN_RETRY, error.retry_after)))
            return CallError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                _reason(error_pb2.ERROR_REASON_QUOTA_EXCEEDED),
                text,
                {"quota": error.quota, "limit": str(error.limit), "used": str(error.used)},
                [error_details_pb2.RetryInfo(retry_delay=wait)],
            )
        case Unavailable():
            return CallError(
                grpc.StatusCode.UNAVAILABLE,
                _reason(error_pb2.ERROR_REASON_UNAVAILABLE),
                text,
                {"dependency": error.dependency},
                [error_details_pb2.RetryInfo(retry_delay=_RETRY_AFTER)],
            )
        case ShuttingDown():
            return CallError(
                grpc.StatusCode.UNAVAILABLE,
                _reason(error_pb2.ERROR_REASON_SHUTTING_DOWN),
                text,
                details=[error_details_pb2.RetryInfo(retry_delay=_RETRY_AFTER)],
            )
        case TimeoutError():
            return CallError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                _reason(error_pb2.ERROR_REASON_DEADLINE_EXCEEDED),
                "the call took too long; retry it with a longer deadline",
            )
        case _:
            return CallError(
                grpc.StatusCode.INTERNAL,
                _reason(error_pb2.ERROR_REASON_INTERNAL),
                f"internal error; the log has the details under request id {request_id}",
                {"request_id": request_id},
            )


def _reason(value: error_pb2.ErrorReason.ValueType) -> str:
    return error_pb2.ErrorReason.Name(value).removeprefix("ERROR_REASON_")


_INVALID_ARGUMENT = _reason(error_pb2.ERROR_REASON_INVALID_ARGUMENT)


def _invalid_request_reason(error: InvalidRequest) -> tuple[str, dict[str, str]]:
    match error:
        case PayloadInvalid():
            return (
                _reason(error_pb2.ERROR_REASON_PAYLOAD_INVALID),
                {"type": _shorten(error.job_type, _MAX_METADATA_BYTES)},
            )
        case PageTokenInvalid():
            return _reason(error_pb2.ERROR_REASON_PAGE_TOKEN_INVALID), {}
        case CursorInvalid():
            return _reason(error_pb2.ERROR_REASON_CURSOR_INVALID), {}
        case _:
            return _INVALID_ARGUMENT, {}


def _bad_request(violations: Sequence[Violation]) -> Any:
    """Return the violations that fit into a status, and the number of omitted violations."""
    message = error_details_pb2.BadRequest()
    size = 0
    for number, violation in enumerate(violations):
        path = _shorten(violation.field, _MAX_DESCRIPTION_BYTES)
        description = _shorten(violation.description, _MAX_DESCRIPTION_BYTES)
        size += len(path.encode()) + len(description.encode()) + 6
        if size > _MAX_VIOLATIONS_BYTES:
            message.field_violations.add(
                field="", description=f"and {len(violations) - number} more violations"
            )
            break
        message.field_violations.add(field=path, description=description)
    return message


def _resource_info(kind: str, name: str, description: str) -> Any:
    return error_details_pb2.ResourceInfo(
        resource_type=kind,
        resource_name=name,
        description=_shorten(description, _MAX_DESCRIPTION_BYTES),
    )


def _precondition_failure(subject: str, description: str) -> Any:
    return error_details_pb2.PreconditionFailure(
        violations=[
            error_details_pb2.PreconditionFailure.Violation(
                type="STATE",
                subject=subject,
                description=_shorten(description, _MAX_DESCRIPTION_BYTES),
            )
        ]
    )


def _pack(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _shorten(text: str, size: int) -> str:
    """Return at most `size` bytes of UTF-8, with an ellipsis if the text is cut."""
    raw = text.encode(errors="replace")
    if len(raw) <= size:
        return raw.decode()
    return raw[: size - 3].decode(errors="ignore") + "…"
