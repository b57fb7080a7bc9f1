"""The headers of a client's calls: its credential, its tenant and its own metadata."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from headrace import _process
from headrace._proxy import is_loopback
from headrace.errors import DeadlineExceeded, InsecureConnection, Refusal

Metadata: TypeAlias = tuple[tuple[str, str], ...]

# Returns an access token. The client calls it before the first call, and when a gateway has
# rejected the previous token.
TokenProvider: TypeAlias = Callable[[], Awaitable[str]]

_AUTHORIZATION: Final = "authorization"
_TENANT: Final = "x-headrace-tenant"
# The header with the correlation id of a call.
CORRELATION_ID: Final = "x-request-id"
# https://www.w3.org/TR/trace-context/
TRACE_HEADERS: Final = ("traceparent", "tracestate")
# The headers that `metadata` must not contain, with the arguments that set them.
_ARGUMENTS: Final = {_AUTHORIZATION: "token or api_key", _TENANT: "tenant"}
# The names that gRPC accepts, except those with binary values (`-bin`).
_NAME: Final = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)").fullmatch


class Secret(str):
    """A text that `repr` hides, because error reports can contain local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


class Headers:
    """The headers of each call.

    Args:
        secret: the credential; None without one.
        provider: returns the credential, and a new one after a rejection; None for a credential
            that does not change.
        others: the other headers.
        exposed: the gateway to which a secret would be sent in plaintext; empty for none.
        timeout: the longest wait for the provider, in seconds.

    Attributes:
        current: the headers of the next call; None if the provider must be called first.
    """

    def __init__(
        self,
        *,
        secret: Secret | None = None,
        provider: TokenProvider | None = None,
        others: Metadata = (),
        exposed: str = "",
        timeout: float = 10.0,
    ) -> None:
        self._provider = provider
        self._others = others
        self._exposed = exposed
        self._timeout = timeout
        self._renewal: asyncio.Task[Metadata] | None = None
        self.current: Metadata | None = None
        if provider is None:
            self.current = others if secret is None else self._with(secret)
        _process.register(self)

    @property
    def renewable(self) -> bool:
        """Whether a rejected credential can be replaced."""
        return self._provider is not None

    def abandon(self) -> object:
        """Forget the pending call of the provider, in a forked child."""
        left, self._renewal = self._renewal, None
        return left

    @property
    def anonymous(self) -> Metadata:
        """The headers of a call without a credential."""
        return self._others

    def check_secrecy(self, name: str) -> None:
        """Check that a secret can be sent.

        Raises:
            InsecureConnection: the secret would be sent to another machine in plaintext.
        """
        if self._exposed:
            raise InsecureConnection(
                f"{name} would be sent to {self._exposed} in plaintext, where others can read it; "
                "use tls=True (HEADRACE_TLS=true), or insecure=True in a network that you trust"
            )

    async def renew(self, rejected: Metadata | None = None) -> Metadata:
        """Return the headers of the next call; concurrent calls share one call of the provider.

        Args:
            rejected: the headers that a gateway has rejected. If they are still current, the
                provider returns a new credential.

        Raises:
            DeadlineExceeded: the provider did not return in time.
            Exception: any error of the provider.
        """
        current = self.current
        if current is not None and (current is not rejected or self._provider is None):
            return current
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._call_provider())
            self._renewal.add_done_callback(self._end_renewal)
        # A cancelled call must not cancel the renewal of the other calls.
        return await asyncio.shield(self._renewal)

    async def _call_provider(self) -> Metadata:
        if self._provider is None:
            raise RuntimeError("the credential of this client does not change")
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                secret = check_secret("the result of token_provider", await self._provider())
        except TimeoutError as error:
            if not limit.expired():
                raise
            message = f"token_provider returned no token within {self._timeout:g} s"
            raise DeadlineExceeded(Refusal(code="DEADLINE_EXCEEDED", message=message)) from error
        self.current = self._with(secret)
        return self.current

    def _end_renewal(self, task: asyncio.Task[Metadata]) -> None:
        self._renewal = None
        if not task.cancelled():
            # Retrieve the error; otherwise asyncio logs it if each waiting call was cancelled.
            task.exception()

    def _with(self, secret: Secret) -> Metadata:
        return ((_AUTHORIZATION, Secret(f"Bearer {secret}")), *self._others)


def resolve_headers(
    *,
    targets: Sequence[str],
    encrypted: bool,
    insecure: bool,
    token: str | None,
    api_key: str | None,
    provider: TokenProvider | None,
    tenant: str | None,
    metadata: Mapping[str, str] | Iterable[tuple[str, str]],
    timeout: float,
) -> Headers:
    """Return the headers of a client.

    Without `token`, `api_key` and `provider`, the credential comes from HEADRACE_TOKEN or
    HEADRACE_API_KEY.

    Args:
        targets: the addresses of the gateways.
        encrypted: whether connections use TLS.
        insecure: whether plaintext connections to other machines may carry the credential.
        token, api_key, provider, tenant, metadata: the arguments of the client.
        timeout: the longest wait for the provider, in seconds.

    Raises:
        TypeError: a credential is not a string.
        ValueError: several credentials are given, or an argument is malformed.
        InsecureConnection: the credential would be sent to another machine in plaintext.
    """
    given = {"token": token, "api_key": api_key, "token_provider": provider}
    names = [name for name, value in given.items() if value is not None]
    credential = token if token is not None else api_key
    if not names:
        variables = ("HEADRACE_TOKEN", "HEADRACE_API_KEY")
        names = [name for name in variables if os.environ.get(name)]
        credential = Secret(os.environ[names[0]]) if names else None
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} are set; a client has one credential")
    secret = None if credential is None else check_secret(names[0], credential)
    remote = next((target for target in targets if not is_loopback(target)), "")
    others = [] if tenant is None else [(_TENANT, _check_value("tenant", tenant))]
    for name, value in metadata.items() if isinstance(metadata, Mapping) else metadata:
        if name in _ARGUMENTS:
            raise ValueError(f"metadata contains {name!r}; use the argument {_ARGUMENTS[name]}")
        if not _NAME(name):
            raise ValueError(
                f"metadata contains {name!r}; use lower-case letters, digits and `-_.`, without "
                "the prefix `grpc-` and the suffix `-bin`"
            )
        others.append((name, _check_value(f"metadata {name!r}", value)))
    headers = Headers(
        secret=secret,
        provider=provider,
        others=tuple(others),
        exposed="" if encrypted or insecure else remote,
        timeout=timeout,
    )
    if names:
        headers.check_secrecy(names[0])
    return headers


def check_secret(name: str, text: object) -> Secret:
    """Return a credential without surrounding white space.

    Raises:
        TypeError: the credential is not a string.
        ValueError: the credential is empty or contains an invalid character.
    """
    return Secret(_check_value(name, text))


def _check_value(name: str, text: object) -> str:
    # The messages do not contain the value, which may be secret.
    if not isinstance(text, str):
        raise TypeError(f"{name} is of type {type(text).__name__}; it must be a string")
    stripped = Secret(text.strip())
    if not (stripped and stripped.isascii() and stripped.isprintable()):
        raise ValueError(f"{name} is empty or has a character that is not printable ASCII")
    return stripped


def trace_headers() -> Metadata:
    """Return the headers of the current OpenTelemetry span; none outside of a span.

    The client does not depend on OpenTelemetry. A program that has not imported it has no span.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    # Imported here, because most programs do not have the package.
    from opentelemetry.propagate import inject  # noqa: PLC0415

    carrier: dict[str, str] = {}
    inject(carrier)
    return tuple((name, carrier[name]) for name in TRACE_HEADERS if carrier.get(name))
