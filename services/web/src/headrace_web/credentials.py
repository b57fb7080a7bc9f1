"""The metadata of the gateway's calls, with the credential of an HTTP request."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.requests import Request

from headrace_web.gateway import Metadata
from headrace_web.middleware import REQUEST_ID
from headrace_web.problems import Problem

# Headers that the gateway reads itself.
_FORWARDED: Final = ("authorization", "x-headrace-tenant")
_TOKEN_PARAMETER: Final = "access_token"  # noqa: S105 - a name, not a token
# The prefix of API keys.
_API_KEY: Final = "hr_"


def metadata_of(request: Request, *, accepts_token_parameter: bool = False) -> Metadata:
    """Return the metadata of a call on behalf of a request.

    Args:
        request: the request.
        accepts_token_parameter: whether the URL may contain a token as `access_token`. A browser's
            EventSource cannot send headers.

    Raises:
        Problem: the credential is in the wrong place.
    """
    headers = request.headers
    metadata = [(name, headers[name]) for name in _FORWARDED if name in headers]
    metadata.append((REQUEST_ID, request.state.request_id))
    if request.client is not None:
        metadata.append(("x-forwarded-for", request.client.host))
    if any(not (value.isascii() and value.isprintable()) for _, value in metadata):
        raise Problem(
            HTTPStatus.BAD_REQUEST, "a header has a character that is not printable ASCII"
        )
    token = request.query_params.get(_TOKEN_PARAMETER)
    if token is None:
        return metadata
    if not accepts_token_parameter or "authorization" in headers or token.startswith(_API_KEY):
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            f"{_TOKEN_PARAMETER} is only for watch tokens of event streams without the header "
            "Authorization; other credentials do not belong into a URL",
            reason="INVALID_ARGUMENT",
            violations=[{"field": _TOKEN_PARAMETER, "description": "is not allowed here"}],
        )
    if not (token.isascii() and token.isprintable() and token):
        raise Problem(HTTPStatus.UNAUTHORIZED, "the token is malformed", reason="UNAUTHENTICATED")
    return [*metadata, ("authorization", f"Bearer {token}")]
