"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import JSONResponse

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
        self.status = HTTPStatus(status)
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
            "title": self.status.phrase,
            "status": int(self.status),
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
            status_code=int(self.status),
            headers=headers,
            media_type=MEDIA_TYPE,
        )
