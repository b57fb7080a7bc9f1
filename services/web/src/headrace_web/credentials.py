"""The metadata of the gateway's calls, with the credential of an HTTP request."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.requests import Request

from headrace_web.gateway import Metadata
from headrace_web.middleware import REQUEST_ID
from headrace_web.problems import Problem

_AUTHORIZATION: Final = "authorization"
# Headers that the gateway reads itself.
_FORWARDED: Final = (
    _AUTHORIZATION,
    "x-headrace-tenant",
    REQUEST_ID,
    # https://www.w3.org/TR/trace-context/
    "traceparent",
    "tracestate",
)
_CLIENT_ADDRESS: Final = "x-forwarded-for"
_TOKEN_PARAMETER: Final = "access_token"  # noqa: S105 - a name, not a token
# The prefix of API keys.
_API_KEY: Final = "hr_"


def metadata_of(headers: Mapping[str, str], *, client: str) -> Metadata:
    """Return the metadata of a call on behalf of a request.

    Args:
        headers: the headers of the request.
        client: the address of the client; empty if it is unknown.

    Raises:
        Problem: a header cannot be sent to the gateway.
    """
    metadata = [(name, headers[name]) for name in _FORWARDED if name in headers]
    for name, value in metadata:
        if not _is_printable(value):
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                f"the header {name} has a character that is not printable ASCII",
            )
    # A proxy may report something else than an address.
    if _is_printable(client):
        metadata.append((_CLIENT_ADDRESS, client))
    return metadata


def metadata_of_request(request: Request) -> Metadata:
    """Return the metadata of a call without the credential of the request.

    Raises:
        Problem: a header cannot be sent to the gateway.
    """
    headers = {name: value for name, value in request.headers.items() if name != _AUTHORIZATION}
    return metadata_of(headers, client=_client(request))


def request_metadata(request: Request) -> Metadata:
    """Return the metadata of a call on behalf of a request to a resource.

    Raises:
        Problem: the credential is in the wrong place, or a header cannot be sent.
    """
    if _TOKEN_PARAMETER in request.query_params:
        raise _misplaced_token()
    return metadata_of(request.headers, client=_client(request))


def stream_metadata(request: Request) -> Metadata:
    """Return the metadata of an event stream, whose URL may contain a token as `access_token`.

    A browser's EventSource cannot send headers.

    Raises:
        Problem: the credential is in the wrong place, or a header cannot be sent.
    """
    metadata = metadata_of(request.headers, client=_client(request))
    token = request.query_params.get(_TOKEN_PARAMETER)
    if token is None:
        return metadata
    if _AUTHORIZATION in request.headers or token.startswith(_API_KEY):
        raise _misplaced_token()
    if not _is_printable(token):
        raise Problem(HTTPStatus.UNAUTHORIZED, "the token is malformed", reason="UNAUTHENTICATED")
    return [*metadata, (_AUTHORIZATION, f"Bearer {token}")]


def _client(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _misplaced_token() -> Problem:
    return Problem(
        HTTPStatus.BAD_REQUEST,
        f"{_TOKEN_PARAMETER} is only for the tokens of event streams without the header "
        "Authorization; a URL must not contain any other credential",
        reason="INVALID_ARGUMENT",
        violations=[{"field": _TOKEN_PARAMETER, "description": "is not allowed here"}],
    )


def _is_printable(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()
