"""The link `drain`: a gateway that shuts down sends new calls to another gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import ClassVar, Final

from google.protobuf.message import Message

from headrace_core.domain.errors import ShuttingDown
from headrace_gateway.calls.exchange import Exchange, Method, Proceed

# The transport counts as empty after this many seconds without a new call.
_QUIET_S: Final = 0.05
# The longest total wait, in seconds.
_MAX_WAIT_S: Final = 1.0


class Drain:
    """Rejects calls with ShuttingDown once `drain` is called."""

    name: ClassVar[str] = "drain"
    needs: ClassVar[tuple[str, ...]] = ("errors",)

    def __init__(self) -> None:
        self._draining = False
        self._last_rejection = 0.0

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:  # noqa: ARG002 - every method is rejected
        """Return a function that calls `proceed`, or rejects the call while the gateway drains."""

        def admit(exchange: Exchange) -> Awaitable[Message | None]:
            if self._draining:
                self._last_rejection = time.monotonic()
                raise ShuttingDown
            return proceed(exchange)

        return admit

    async def drain(self) -> None:
        """Reject new calls, and return when none has arrived for `_QUIET_S` seconds.

        A stopping server cancels calls that its transport has received but not dispatched. Their
        clients would get CANCELLED, which they do not retry.
        """
        self._draining = True
        started = self._last_rejection = time.monotonic()
        while True:
            now = time.monotonic()
            wait = self._last_rejection + _QUIET_S - now
            if wait <= 0 or now > started + _MAX_WAIT_S:
                return
            await asyncio.sleep(wait)
