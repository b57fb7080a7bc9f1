"""Converts the status of a failed call to a typed error."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from google.protobuf.message import DecodeError
from grpc.aio import AioRpcError

from headrace._messages import message_class
from headrace.errors import (
    AccessConflict,
    AccessNotFound,
    CallError,
    CredentialChanged,
    CursorExpired,
    CursorInvalid,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    JobNotFound,
    LimitExceeded,
    LoginThrottled,
    PageTokenInvalid,
    PayloadInvalid,
    PermissionDenied,
    QuotaExceeded,
    Refusal,
    RequestIdConflict,
    SlowConsumer,
    StateConflict,
    SubscriptionConflict,
    SubscriptionNotFound,
    SubscriptionTaken,
    TenantSuspended,
    TokensThrottled,
    Unauthenticated,
    Unavailable,
    Violation,
)

# The trailer that contains a google.rpc.Status.
STATUS_TRAILER: Final = "grpc-status-details-bin"
_DOMAIN: Final = "headrace"

# The codes of calls without a connection. Such a status has no reason.
_CONNECTION_CODES: Final = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}

_Status: Final = message_class("Status")
_ErrorInfo: Final = message_class("ErrorInfo")
_BadRequest: Final = message_class("BadRequest")
_RetryInfo: Final = message_class("RetryInfo")

_BY_REASON: Final[dict[str, type[CallError]]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "PAYLOAD_INVALID": PayloadInvalid,
    "PAGE_TOKEN_INVALID": PageTokenInvalid,
    "CURSOR_INVALID": CursorInvalid,
    "JOB_NOT_FOUND": JobNotFound,
    "REQUEST_ID_CONFLICT": RequestIdConflict,
    "STATE_CONFLICT": StateConflict,
    "LIMIT_EXCEEDED": LimitExceeded,
    "SLOW_CONSUMER": SlowConsumer,
    "CURSOR_EXPIRED": CursorExpired,
    "SUBSCRIPTION_NOT_FOUND": SubscriptionNotFound,
    "SUBSCRIPTION_CONFLICT": SubscriptionConflict,
    "SUBSCRIPTION_TAKEN": SubscriptionTaken,
    "UNAUTHENTICATED": Unauthenticated,
    "CREDENTIAL_CHANGED": CredentialChanged,
    "PERMISSION_DENIED": PermissionDenied,
    "TENANT_SUSPENDED": TenantSuspended,
    "QUOTA_EXCEEDED": QuotaExceeded,
    "ACCESS_NOT_FOUND": AccessNotFound,
    "ACCESS_CONFLICT": AccessConflict,
    "LOGIN_THROTTLED": LoginThrottled,
    "TOKENS_THROTTLED": TokensThrottled,
    "UNAVAILABLE": Unavailable,
    "SHUTTING_DOWN": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "INTERNAL": InternalError,
}

# For transport errors, and for reasons that this version does not know.
_BY_CODE: Final[dict[str, type[CallError]]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "UNAVAILABLE": Unavailable,
    # The code of a call that arrives while the server is stopping.
    "CANCELLED": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "INTERNAL": InternalError,
    "UNKNOWN": InternalError,
}


def call_error(error: AioRpcError, *, proxy: str = "") -> CallError:
    """Return the typed error of a failed call.

    Args:
        error: gRPC's error.
        proxy: the proxy between client and gateway, which the message of a connection error names.
    """
    refusal = _refusal_of(error)
    if proxy and refusal.code in _CONNECTION_CODES and not refusal.reason:
        hint = f"through the proxy {proxy}; add the gateway to no_proxy to bypass the proxy"
        refusal = replace(refusal, message=f"{refusal.message} ({hint})")
    kind = _BY_REASON.get(refusal.reason) or _BY_CODE.get(refusal.code, CallError)
    if refusal.code == "RESOURCE_EXHAUSTED" and not refusal.reason:
        # gRPC itself rejected the request, because the request or its metadata is too large.
        kind = LimitExceeded
    return kind(refusal)


def _refusal_of(error: AioRpcError) -> Refusal:
    code = error.code().name
    message = error.details() or ""
    reason = ""
    metadata: dict[str, str] = {}
    violations: list[Violation] = []
    retry_after: timedelta | None = None
    for detail in _details(error):
        kind = detail.type_url.rpartition("/")[2]
        try:
            if kind == "google.rpc.ErrorInfo":
                info = _ErrorInfo.FromString(detail.value)
                if info.domain == _DOMAIN:
                    reason = info.reason
                    metadata = {entry.key: entry.value for entry in info.metadata}
            elif kind == "google.rpc.BadRequest":
                bad = _BadRequest.FromString(detail.value)
                violations = [Violation(v.field, v.description) for v in bad.field_violations]
            elif kind == "google.rpc.RetryInfo":
                delay = _RetryInfo.FromString(detail.value).retry_delay
                retry_after = timedelta(seconds=delay.seconds, microseconds=delay.nanos // 1000)
        except DecodeError:
            # The code and the message of the status are sufficient.
            continue
    return Refusal(
        code=code,
        message=message,
        reason=reason,
        metadata=metadata,
        violations=tuple(violations),
        retry_after=retry_after,
    )


def _details(error: AioRpcError) -> list[Any]:
    # The grpc stubs do not declare the type, which is key-value pairs.
    trailers: Any = error.trailing_metadata()
    for key, value in trailers or ():
        if key == STATUS_TRAILER:
            try:
                return list(_Status.FromString(value).details)
            except DecodeError:
                return []
    return []
