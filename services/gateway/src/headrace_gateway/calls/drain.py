"""The link `drain`: a gateway that shuts down sends new calls to another gateway."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import ClassVar, Final

import grpc
import grpc.aio
from google.protobuf.message import Message

from headrace_core.domain.errors import ShuttingDown
from headrace_gateway.calls.exchange import Exchange, Method, Proceed

# The transport counts as empty after this many round trips through gRPC's queue without a new
# call. A received call needs about four of them until its rejection.
_QUIET_ROUND_TRIPS: Final = 10
# The longest wait while clients continue to send calls, in seconds.
_MAX_WAIT_S: Final = 2.0


class Drain:
    """Rejects calls with ShuttingDown once `drain` is called."""

    name: ClassVar[str] = "drain"
    needs: ClassVar[tuple[str, ...]] = ("errors",)

    def __init__(self) -> None:
        self._draining = False
        self._rejected = 0

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:  # noqa: ARG002 - every method is rejected
        """Return a function that calls `proceed`, or rejects the call while the gateway drains."""

        def admit(exchange: Exchange) -> Awaitable[Message | None]:
            if self._draining:
                self._rejected += 1
                raise ShuttingDown
            return proceed(exchange)

        return admit

    async def drain(self) -> None:
        """Reject new calls, and return when the transport has no received calls left.

        A stopping server cancels calls that its transport has received but not dispatched. Their
        clients would get CANCELLED, which many clients do not retry.
        """
        self._draining = True
        # The channel never connects. A wait for a change from another state ends at once, but gRPC
        # reports its end through the same queue as new calls.
        async with grpc.aio.insecure_channel("ipv4:127.0.0.1:1") as channel:
            end = time.monotonic() + _MAX_WAIT_S
            quiet = 0
            while quiet < _QUIET_ROUND_TRIPS and time.monotonic() < end:
                rejected = self._rejected
                await channel.wait_for_state_change(grpc.ChannelConnectivity.SHUTDOWN)
                quiet = quiet + 1 if rejected == self._rejected else 0
