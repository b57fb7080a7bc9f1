"""The link `traffic`: counts the bytes for which each connection made calls."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import ClassVar, Final

from google.protobuf.message import Message

from headrace_gateway.calls.exchange import Exchange, Method, Proceed

# The maximum size of a call apart from its request: metadata and HTTP/2 frames, in bytes.
_CALL_BYTES: Final = 32 * 1024


class Traffic:
    """Counts the requests and the answered calls of each connection, in bytes.

    A call that its client cancels counts only its request.
    """

    name: ClassVar[str] = "traffic"
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._bytes_by_port: defaultdict[str, int] = defaultdict(int)

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that counts a call and calls `proceed`."""

        async def count(exchange: Exchange) -> Message | None:
            port = exchange.context.peer().rpartition(":")[2]
            if not method.streams_requests:
                self._bytes_by_port[port] += len(exchange.raw)
            try:
                return await proceed(exchange)
            except asyncio.CancelledError:
                port = ""
                raise
            finally:
                if port:
                    self._bytes_by_port[port] += _CALL_BYTES

        return count

    def take(self) -> Mapping[str, int]:
        """Return the bytes since the last `take`, by the port of the client.

        Clients at different addresses can have the same port. Their bytes are added up, which errs
        in their favor.
        """
        taken, self._bytes_by_port = self._bytes_by_port, defaultdict(int)
        return taken
