"""The link `authorize`: rejects calls without the right, and ends streams that lose it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from google.protobuf.message import Message

from headrace_core.domain.access import Principal
from headrace_core.domain.errors import CredentialChanged, PermissionDenied
from headrace_gateway.calls.chain import ChainError
from headrace_gateway.calls.exchange import Exchange, Method, Proceed
from headrace_gateway.calls.permissions import Need, Open


class Sessions:
    """The open streams and their principals."""

    def __init__(self) -> None:
        self._open: dict[asyncio.Timeout, tuple[Principal, str]] = {}

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def open(self, principal: Principal, tenant: str, scope: asyncio.Timeout) -> Iterator[None]:
        """Keep a stream in the list while the block runs.

        Args:
            principal: the principal of the stream.
            tenant: the tenant whose events the stream sends.
            scope: ends the stream.
        """
        self._open[scope] = (principal, tenant)
        try:
            yield
        finally:
            del self._open[scope]

    def end(self, matches: Callable[[Principal, str], bool]) -> int:
        """End the streams whose principal and tenant match, and return their number."""
        now = asyncio.get_running_loop().time()
        ended = 0
        for scope, (principal, tenant) in list(self._open.items()):
            if matches(principal, tenant):
                scope.reschedule(now)
                ended += 1
        return ended


class Authorize:
    """Checks the right that an RPC needs.

    A stream ends with CredentialChanged when its credential expires, and when `sessions.end`
    selects it.

    Args:
        needs: the right that each RPC needs, by path.
        sessions: receives each stream.
    """

    name: ClassVar[str] = "authorize"
    needs: ClassVar[tuple[str, ...]] = ("authenticate",)

    def __init__(self, needs: Mapping[str, Need], sessions: Sessions) -> None:
        self._needs = needs
        self._sessions = sessions

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return `proceed` for principals with the right.

        Raises:
            ChainError: the table has no row for this method.
        """
        need = self._needs.get(method.path)
        if need is None:
            raise ChainError(f"{method.path} has no row in calls/permissions.py")
        if method.streams_responses:
            proceed = self._bounded(proceed)
        if isinstance(need, Open):
            return proceed

        def authorize(exchange: Exchange) -> Awaitable[Message | None]:
            if need not in exchange.call.principal.rights:
                raise PermissionDenied(need)
            return proceed(exchange)

        return authorize

    def _bounded(self, proceed: Proceed) -> Proceed:
        """Return `proceed` for a stream, until its credential ends."""

        async def bounded(exchange: Exchange) -> Message | None:
            call = exchange.call
            principal = call.principal
            left = None if principal.expire_time is None else principal.expire_time - time.time()
            scope = asyncio.timeout(left)
            try:
                async with scope:
                    with self._sessions.open(principal, call.tenant, scope):
                        return await proceed(exchange)
            except TimeoutError:
                if not scope.expired():
                    raise
                raise CredentialChanged(exchange.place()) from None

        return bounded
