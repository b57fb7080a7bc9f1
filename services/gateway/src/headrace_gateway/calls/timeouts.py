"""The link `timeout`: limits the time that a unary call waits for PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import ClassVar

from google.protobuf.message import Message

from headrace_core.domain.errors import Unavailable
from headrace_gateway.calls.exchange import Exchange, Method, Proceed


class Timeouts:
    """Ends a unary call with Unavailable before its client times out, so the client retries.

    Args:
        seconds: longest duration of a call.
        bounded: the paths of methods that limit their own time, which is cheaper.
    """

    name: ClassVar[str] = "timeout"
    needs: ClassVar[tuple[str, ...]] = ("errors",)

    def __init__(self, *, seconds: float, bounded: Collection[str] = ()) -> None:
        self._seconds = seconds
        self._bounded = bounded

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that calls `proceed` with a time limit, for unary calls."""
        if method.streams_responses or method.path in self._bounded:
            return proceed

        async def bounded(exchange: Exchange) -> Message | None:
            scope = asyncio.timeout(self._seconds)
            try:
                async with scope:
                    return await proceed(exchange)
            except TimeoutError as error:
                if not scope.expired():
                    raise
                # Unary calls wait only for PostgreSQL.
                raise Unavailable("postgresql") from error

        return bounded
