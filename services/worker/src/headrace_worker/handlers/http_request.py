"""Calls of web services: webhooks, mostly."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated, Any, Literal

import httpx2
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from headrace_core.domain.retry import RetryPolicy
from headrace_worker.context import Attempt, Context
from headrace_worker.handlers.retry_after import parse_retry_after, server_time
from headrace_worker.handlers.tls import tls_context
from headrace_worker.outcome import Fail, Retry
from headrace_worker.registry import handler

# Headers that belong to the connection and not to the request.
_RESERVED = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# What a result shows of the answer's headers: no cookies, nothing that could hold a secret.
_SHOWN = (
    "content-type",
    "content-length",
    "date",
    "etag",
    "last-modified",
    "location",
    "retry-after",
    "x-request-id",
)

_TOO_MANY_REQUESTS = 429

HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=200)]
HeaderValue = Annotated[str, Meta(pattern=r"^[^\r\n\x00]*$", max_length=8000)]


class HttpSettings(BaseSettings):
    """Which hosts may be called, and how much of their answers is kept.

    `allowed_hosts` is a comma list: `hooks.example.org` is that host at any port,
    `hooks.example.org:8443` at this port alone, `*.example.org` any host below it, `*` every host.
    """

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_HTTP_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    max_response_bytes: int = Field(64 * 1024, ge=0)

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().lower() for part in value.split(",") if part.strip())
        return value


class Call(Struct, frozen=True, forbid_unknown_fields=True):
    """A request."""

    url: Annotated[
        str,
        Meta(
            description="http or https, at a host that HEADRACE_HTTP_ALLOWED_HOSTS allows.",
            pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://",
            max_length=8000,
            examples=["https://hooks.example.org/orders"],
        ),
    ]
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "POST"
    headers: Annotated[
        dict[HeaderName, HeaderValue],
        Meta(
            description="Headers, in addition to Idempotency-Key and X-Headrace-Attempt.",
            max_length=100,
        ),
    ] = field(default_factory=dict)
    body: Annotated[
        Any | UnsetType,
        Meta(
            description="A string is sent as it is (text/plain), everything else as JSON. Left "
            "out, nothing is sent."
        ),
    ] = UNSET
    timeout: Annotated[
        float, Meta(description="Seconds for the whole exchange.", gt=0, le=3600)
    ] = 30.0
    expected_status: Annotated[
        list[Annotated[int, Meta(ge=100, le=599)]] | None,
        Meta(description="The statuses that are a success; by default 200 to 299."),
    ] = None

    def expects(self, status: int) -> bool:
        """Whether an answer's status is a success."""
        if self.expected_status is None:
            return 200 <= status <= 299
        return status in self.expected_status


class Answer(Struct, frozen=True):
    """What the service answered."""

    status: int
    headers: Annotated[dict[str, str], Meta(description="Some of the headers, in lower case.")]
    body: Annotated[str, Meta(description="The body as text, as far as it is kept.")]
    truncated: Annotated[
        bool, Meta(description="The body was longer than HEADRACE_HTTP_MAX_RESPONSE_BYTES.")
    ]


@handler(
    "http_request",
    retry=RetryPolicy(max_attempts=5, initial_backoff=timedelta(seconds=1)),
)
async def http_request(call: Call, ctx: Context) -> Answer:
    """Calls a web service and returns its answer.

    A lost connection, a timeout, 429 and 5xx are tried again, after Retry-After when the service
    sends it. Every attempt carries the job's id as Idempotency-Key, so that the service can
    recognise a repetition, and its own number as X-Headrace-Attempt. Redirects are not followed.
    """
    settings = HttpSettings()
    url = allowed_url(call.url, settings.allowed_hosts)
    headers, content = _compose(call, ctx.attempt)
    context = await asyncio.to_thread(tls_context)
    try:
        async with (
            asyncio.timeout(call.timeout),
            # No proxies and no .netrc of the machine: the request is what the job says.
            httpx2.AsyncClient(verify=context, trust_env=False, timeout=None) as client,
            client.stream(call.method, url, headers=headers, content=content) as response,
        ):
            body, truncated = await _read(response, settings.max_response_bytes)
    except TimeoutError as error:
        raise Retry(f"{url.host} did not answer within {call.timeout:g} s") from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
        raise Fail(f"the request cannot be sent: {error}", type="InvalidRequest") from error
    except httpx2.RequestError as error:
        reason = str(error) or type(error).__name__
        raise Retry(f"{url.host} cannot be reached: {reason}") from error
    if not call.expects(response.status_code):
        raise _outcome(response)
    return Answer(
        status=response.status_code,
        headers={name: response.headers[name] for name in _SHOWN if name in response.headers},
        body=body,
        truncated=truncated,
    )


def allowed_url(text: str, allowed: tuple[str, ...]) -> httpx2.URL:
    """The URL, read by the same parser that the request is sent with.

    Raises:
        Fail: it is malformed, or its host is not allowed.
    """
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise Fail(f"url is malformed: {error}", type="InvalidRequest") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise Fail("url must be http:// or https:// and a host", type="InvalidRequest")
    if url.userinfo:
        raise Fail("url must not hold a user: use the Authorization header", type="InvalidRequest")
    host = url.raw_host.decode("ascii").lower().rstrip(".")
    port = url.port or (443 if url.scheme == "https" else 80)
    if not any(_matches(pattern, host, port) for pattern in allowed):
        raise Fail(
            f"{host} is not allowed; add it to HEADRACE_HTTP_ALLOWED_HOSTS where the worker runs",
            type="HostNotAllowed",
        )
    return url


def _matches(pattern: str, host: str, port: int) -> bool:
    name, separator, number = pattern.rpartition(":")
    if separator and number.isdigit() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        pattern = name
    pattern = pattern.strip("[]")
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern


def _compose(call: Call, attempt: Attempt) -> tuple[httpx2.Headers, bytes | None]:
    """The headers and the body to send.

    Raises:
        Fail: a header is one that the connection decides.
    """
    for name, value in call.headers.items():
        if name.lower() in _RESERVED:
            raise Fail(f"headers must not hold {name}", type="InvalidRequest")
        # The patterns alone do not keep it out: `$` also matches before a last line break.
        if any(character in name + value for character in "\r\n\0"):
            raise Fail(f"the header {name!r} holds a line break", type="InvalidRequest")
    # A compressed answer could grow far beyond the limit while it is unpacked.
    headers = httpx2.Headers({"Accept-Encoding": "identity", "User-Agent": "headrace"})
    headers["Idempotency-Key"] = str(attempt.job_id)
    content: bytes | None = None
    match call.body:
        case UnsetType():
            pass
        case str() as text:
            headers["Content-Type"] = "text/plain; charset=utf-8"
            content = text.encode()
        case value:
            headers["Content-Type"] = "application/json"
            content = msgspec.json.encode(value)
    headers.update(call.headers)
    headers["X-Headrace-Attempt"] = str(attempt.number)
    return headers, content


async def _read(response: httpx2.Response, limit: int) -> tuple[str, bool]:
    """The body's text up to `limit` bytes, and whether there was more."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > limit:
            break
    kept = bytes(body[:limit])
    try:
        text = kept.decode(response.charset_encoding or "utf-8", errors="replace")
    except LookupError:
        text = kept.decode("utf-8", errors="replace")
    return text, len(body) > limit


def _outcome(response: httpx2.Response) -> Retry | Fail:
    """What an unexpected status means for the job."""
    status = f"{response.request.url.host} answered {response.status_code}"
    if response.status_code == _TOO_MANY_REQUESTS or response.status_code >= 500:
        headers = response.headers
        wait = parse_retry_after(headers.get("retry-after"), server_time(headers))
        return Retry(status, after=wait)
    if response.is_redirect:
        return Fail(
            f"{status}, a redirect to {response.headers.get('location')}; redirects are not "
            "followed",
            type="HttpStatus",
        )
    return Fail(f"{status}; trying again would not change that", type="HttpStatus")
