"""Call web services, such as webhooks."""

# ruff: noqa: E402 - the check comes before the imports that need it
from __future__ import annotations

from headrace_worker import require_packages

require_packages("httpx2", install="headrace-handlers[http]")

import asyncio
import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any, Literal

import httpx2
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from headrace_handlers.http_address import Network, resolve
from headrace_handlers.http_body import (
    BodyEncoding,
    as_text,
    charset_of,
    decompressed,
)
from headrace_handlers.http_client import parse_retry_after, server_time, tls_context
from headrace_handlers.result_size import (
    cut_base64,
    cut_text,
    json_size,
    max_result_bytes,
)
from headrace_worker import Attempt, Context, Fail, Retry, RetryPolicy, handler

# Headers that belong to the connection, which a job cannot set.
_RESERVED_HEADERS = frozenset(
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

# Response headers that a result contains: no cookies, and none that could contain a secret.
_SHOWN_HEADERS = (
    "content-encoding",
    "content-type",
    "content-length",
    "date",
    "etag",
    "last-modified",
    "location",
    "retry-after",
    "x-request-id",
)

# Maximum length of a response header in a result.
_MAX_SHOWN_CHARACTERS = 1000

_TOO_MANY_REQUESTS = 429

# Maximum time to connect to one of several addresses of a host, in seconds.
_MAX_CONNECT_S = 5.0

HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=200)]
HeaderValue = Annotated[str, Meta(pattern=r"^[^\r\n\x00]*$", max_length=8000)]


class HttpSettings(BaseSettings):
    """The allowed hosts and networks, and the size limit of responses.

    `allowed_hosts` is a comma-separated list: `hooks.example.org` allows this host at any port,
    `hooks.example.org:8443` only at this port, `*.example.org` any subdomain, `*` every host.
    `allowed_networks` is a comma-separated list of networks such as `10.1.0.0/16` that are allowed
    even if they are not public. An address in `allowed_hosts` does not need a network.
    """

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_HTTP_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    allowed_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    max_response_bytes: int = Field(64 * 1024, ge=0)

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return _list_items(value)
        return value

    @field_validator("allowed_networks", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ipaddress.ip_network(part) for part in _list_items(value))
        return value


def _list_items(text: str) -> tuple[str, ...]:
    return tuple(part.strip().lower() for part in text.split(",") if part.strip())


class Call(Struct, frozen=True, forbid_unknown_fields=True):
    """A request."""

    url: Annotated[
        str,
        Meta(
            description="http or https URL of a host in HEADRACE_HTTP_ALLOWED_HOSTS.",
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
            description="A string is sent as text/plain, any other value as JSON. Default: no body."
        ),
    ] = UNSET
    timeout: Annotated[
        float, Meta(description="Time limit of request and response, in seconds.", gt=0, le=3600)
    ] = 30.0
    expected_status: Annotated[
        list[Annotated[int, Meta(ge=100, le=599)]] | None,
        Meta(description="Successful statuses; default: 200 to 299."),
    ] = None

    def expects(self, status: int) -> bool:
        """Return whether a status is successful."""
        if self.expected_status is None:
            return 200 <= status <= 299
        return status in self.expected_status


class Answer(Struct, frozen=True):
    """The response of the service."""

    status: int
    headers: Annotated[dict[str, str], Meta(description="Some of the headers, in lower case.")]
    body: Annotated[str, Meta(description="The body up to the size limit, as text or base64.")]
    body_encoding: Annotated[BodyEncoding, Meta(description="The encoding of `body`.")]
    truncated: Annotated[
        bool,
        Meta(
            description="The body is cut: it exceeds HEADRACE_HTTP_MAX_RESPONSE_BYTES or the size "
            "of a result, or it is incomplete."
        ),
    ]


@handler(
    "http_request",
    retry=RetryPolicy(max_attempts=5, initial_backoff=timedelta(seconds=1)),
)
async def http_request(call: Call, ctx: Context) -> Answer:
    """Call a web service and return its response.

    Retries after lost connections, timeouts, 429 and 5xx, and respects Retry-After.
    Every attempt sends the job id as Idempotency-Key, so that the service can detect repetitions,
    and the attempt number as X-Headrace-Attempt. Redirects are not followed.

    The status determines the result. After the status has arrived, an incomplete or slow body is
    cut.
    """
    settings = HttpSettings()
    url = allowed_url(call.url, settings.allowed_hosts)
    headers, content = _compose(call, ctx.attempt, url)
    context = await asyncio.to_thread(tls_context)
    received = _ReceivedResponse(settings.max_response_bytes)
    try:
        async with (
            asyncio.timeout(call.timeout),
            # Without the machine's proxies and .netrc, the request depends only on the job.
            httpx2.AsyncClient(verify=context, trust_env=False, timeout=None) as client,
        ):
            await _exchange(
                client,
                received,
                method=call.method,
                url=url,
                addresses=await _addresses(url, settings),
                headers=headers,
                content=content,
            )
    except TimeoutError as error:
        if received.response is None:
            raise Retry(f"{url.host} did not respond within {call.timeout:g} s") from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
        raise Fail(f"the request is invalid: {error}", type="InvalidRequest") from error
    except (httpx2.RequestError, OSError) as error:
        if received.response is None:
            reason = str(error) or type(error).__name__
            raise Retry(f"{url.host} is unreachable: {reason}") from error
    assert received.response is not None
    if not call.expects(received.response.status_code):
        raise _exception_for(received.response, url)
    return received.answer(max_result_bytes())


class _ReceivedResponse:
    """The received part of a response.

    Args:
        limit: the maximum number of body bytes to store.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._body = bytearray()
        self._is_complete = False
        self.response: httpx2.Response | None = None

    async def read(self, response: httpx2.Response) -> None:
        """Read the body up to the limit; keep the received bytes if the read is interrupted."""
        self.response = response
        # Read raw bytes, because a small body could decompress to any size.
        async for chunk in response.aiter_raw():
            self._body += chunk
            if len(self._body) > self._limit:
                return
        self._is_complete = True

    def answer(self, max_bytes: int) -> Answer:
        """Return the response as a result of at most `max_bytes`."""
        assert self.response is not None
        headers = {
            name: self.response.headers[name][:_MAX_SHOWN_CHARACTERS]
            for name in _SHOWN_HEADERS
            if name in self.response.headers
        }
        body, is_cut = bytes(self._body), not self._is_complete
        plain = decompressed(body, headers.get("content-encoding", ""), limit=self._limit + 1)
        if plain is not None:
            del headers["content-encoding"]
            body, is_cut = plain
        is_cut = is_cut or len(body) > self._limit
        content_type = self.response.headers.get("content-type", "")
        text, encoding = as_text(body[: self._limit], charset_of(content_type), is_cut=is_cut)
        answer = Answer(
            status=self.response.status_code,
            headers=headers,
            body=text,
            body_encoding=encoding,
            truncated=is_cut,
        )
        if json_size(answer) <= max_bytes:
            return answer
        frame = msgspec.structs.replace(answer, body="", truncated=True)
        room = max_bytes - json_size(frame) + json_size("")
        cut = cut_text if encoding == "text" else cut_base64
        return msgspec.structs.replace(frame, body=cut(text, room))


async def _exchange(
    client: httpx2.AsyncClient,
    received: _ReceivedResponse,
    *,
    method: str,
    url: httpx2.URL,
    addresses: Sequence[str],
    headers: httpx2.Headers,
    content: bytes | None,
) -> None:
    """Send the request to the first address that accepts a connection."""
    for number, address in enumerate(addresses, 1):
        is_last = number == len(addresses)
        try:
            async with client.stream(
                method,
                url.copy_with(host=address),
                headers=headers,
                content=content,
                timeout=httpx2.Timeout(None, connect=None if is_last else _MAX_CONNECT_S),
                # The certificate must match the name, not the address.
                extensions={"sni_hostname": host_and_port(url)[0]},
            ) as response:
                await received.read(response)
            return
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            if is_last:
                raise


def host_and_port(url: httpx2.URL) -> tuple[str, int]:
    """Return the host of a URL in ASCII and lower case, and its port."""
    host = url.raw_host.decode("ascii").lower().rstrip(".")
    return host, url.port or (443 if url.scheme == "https" else 80)


async def _addresses(url: httpx2.URL, settings: HttpSettings) -> list[str]:
    """Return the allowed addresses of a URL's host.

    Raises:
        Fail: an address is not allowed.
        OSError: the host cannot be resolved.
    """
    host, port = host_and_port(url)
    allowed = list(settings.allowed_networks)
    if any(_without_port(pattern)[0] == host for pattern in settings.allowed_hosts):
        with suppress(ValueError):
            # The operator has allowed exactly this address.
            allowed.append(ipaddress.ip_network(host))
    return await resolve(host, port, allowed)


def allowed_url(text: str, allowed: tuple[str, ...]) -> httpx2.URL:
    """Return the URL, parsed as the request will parse it.

    Raises:
        Fail: the URL is malformed, or its host is not allowed.
    """
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise Fail(f"url is malformed: {error}", type="InvalidRequest") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise Fail("url must be http://HOST or https://HOST", type="InvalidRequest")
    if url.userinfo:
        raise Fail(
            "url must not contain a user; use the Authorization header", type="InvalidRequest"
        )
    host, port = host_and_port(url)
    if not any(_matches(pattern, host, port) for pattern in allowed):
        raise Fail(
            f"{host} is not allowed; add it to HEADRACE_HTTP_ALLOWED_HOSTS on the worker",
            type="HostNotAllowed",
        )
    return url


def _matches(pattern: str, host: str, port: int) -> bool:
    pattern, wanted = _without_port(pattern)
    if wanted is not None and wanted != port:
        return False
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern


def _without_port(pattern: str) -> tuple[str, int | None]:
    """Return the host of a pattern, and its port, if any."""
    name, separator, number = pattern.rpartition(":")
    if separator and number.isdigit() and (":" not in name or name.endswith("]")):
        return name.strip("[]"), int(number)
    return pattern.strip("[]"), None


def _compose(call: Call, attempt: Attempt, url: httpx2.URL) -> tuple[httpx2.Headers, bytes | None]:
    """Return the headers and the body to send.

    Raises:
        Fail: a header belongs to the connection, or cannot be sent.
    """
    for name, value in call.headers.items():
        if name.lower() in _RESERVED_HEADERS:
            raise Fail(f"headers must not contain {name}", type="InvalidRequest")
        # The patterns do not exclude it, because `$` also matches before a final line break.
        if any(character in name + value for character in "\r\n\0"):
            raise Fail(f"header {name!r} contains a line break", type="InvalidRequest")
        try:
            value.encode("latin-1")
        except UnicodeEncodeError as error:
            raise Fail(
                f"header {name!r} contains a character outside Latin-1", type="InvalidRequest"
            ) from error
    # Do not accept compressed responses, which could decompress to far more than the limit.
    headers = httpx2.Headers(
        {
            "Accept-Encoding": "identity",
            "User-Agent": "headrace",
            "Host": url.netloc.decode("ascii"),
        },
        encoding="latin-1",
    )
    headers["Idempotency-Key"] = str(attempt.job_id)
    headers.update(attempt.trace_headers)
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
    headers.update(httpx2.Headers(call.headers, encoding="latin-1"))
    headers["X-Headrace-Attempt"] = str(attempt.number)
    return headers, content


def _exception_for(response: httpx2.Response, url: httpx2.URL) -> Retry | Fail:
    """Return the exception for an unexpected status."""
    status = f"{url.host} returned {response.status_code}"
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
    return Fail(f"{status}; a retry would return the same status", type="HttpStatus")
