"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from grpc.aio import AioRpcError
from starlette.responses import JSONResponse

from headrace._status import call_error
from headrace.errors import Refusal

MEDIA_TYPE: Final = "application/problem+json"


class Problem(Exception):
    """A request that is rejected or has failed.

    Args:
        status: the HTTP status.
        detail: what is wrong, and what to do.
        reason: a value of `headrace.v1.ErrorReason`; empty for an error of HTTP itself.
        violations: the invalid fields, each with `field` and `description`.
        metadata: further facts about the error, by name.
        retry_after: seconds until the request can succeed; None if waiting does not help.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: HTTPStatus | int,
        detail: str,
        *,
        reason: str = "",
        violations: Sequence[Mapping[str, str]] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = int(status)
        self.detail = detail
        self.reason = reason
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.headers = dict(headers or {})

    def document(self, request_id: str) -> dict[str, Any]:
        """Return the problem document.

        Args:
            request_id: the id of the request, which the response and the logs contain.
        """
        document: dict[str, Any] = {
            "type": f"urn:headrace:error:{self.reason}" if self.reason else "about:blank",
            "title": _title(self.status),
            "status": self.status,
            "detail": self.detail,
            "requestId": request_id,
        }
        if self.reason:
            document["reason"] = self.reason
        if self.metadata:
            document["metadata"] = self.metadata
        if self.violations:
            document["violations"] = [dict(violation) for violation in self.violations]
        if self.retry_after is not None:
            document["retryAfter"] = self.retry_after
        return document

    def response(self, request_id: str) -> JSONResponse:
        """Return the response with the problem document."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, round(self.retry_after)))
        return JSONResponse(
            self.document(request_id),
            status_code=self.status,
            headers=headers,
            media_type=MEDIA_TYPE,
        )


# The HTTP status of each gRPC status, as in the Connect protocol, except for FAILED_PRECONDITION:
# 400 would mean that the request itself is wrong.
_HTTP_STATUS: Final[Mapping[str, int]] = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "UNAUTHENTICATED": 401,
}


def refusal_of(error: AioRpcError) -> Refusal:
    """Return the status and the details of a failed call."""
    return call_error(error).refusal


def problem_of(refusal: Refusal) -> Problem:
    """Return the problem of a call that the gateway has rejected or that has failed."""
    status = _HTTP_STATUS.get(refusal.code, 500)
    headers = {}
    if refusal.reason == "CURSOR_EXPIRED":
        # A browser then stops to reconnect.
        status = HTTPStatus.GONE
    if refusal.code == "UNAUTHENTICATED":
        headers["www-authenticate"] = "Bearer"
    detail = refusal.message
    if not refusal.reason:
        # The message of a connection error can contain addresses of the network.
        detail = {
            "UNAVAILABLE": "the gateway is unavailable; repeat the request",
            "DEADLINE_EXCEEDED": "the gateway did not answer in time",
        }.get(refusal.code, detail)
    return Problem(
        status,
        detail,
        reason=refusal.reason or _REASONS.get(refusal.code, ""),
        violations=[
            {"field": one.field, "description": one.description} for one in refusal.violations
        ],
        metadata=refusal.metadata,
        retry_after=None if refusal.retry_after is None else refusal.retry_after.total_seconds(),
        headers=headers,
    )


# The reasons of calls that no gateway has answered.
_REASONS: Final[Mapping[str, str]] = {
    "UNAVAILABLE": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "DEADLINE_EXCEEDED",
    "CANCELLED": "UNAVAILABLE",
}


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        # 499 is common for a request that the client has cancelled, but not registered.
        return "Client Closed Request"
