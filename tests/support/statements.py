"""The statements of a PostgreSQL client, parsed from the bytes that it sends.

The messages are those of protocol 3.0 (PostgreSQL manual, "Message Formats"): a type byte, and a
length that includes itself. Messages up to the start-up have no type. Parse contains the text of a
statement, and each Bind with its name runs it.
"""

from __future__ import annotations

# The last message of a server response, outside a transaction.
READY = b"Z\x00\x00\x00\x05I"

_PARSE, _BIND = ord("P"), ord("B")
# The start of a start-up message: version 3.0. A request for encryption may precede it.
_VERSION = b"\x00\x03\x00\x00"


class Statements:
    """Finds statements in the bytes that one client sends.

    Args:
        text: the text of the statements to find.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._started = False
        self._buffer = bytearray()
        self._known: set[bytes] = set()

    def runs(self, data: bytes) -> bool:
        """Add the next bytes; return whether they run one of the statements."""
        self._buffer += data
        runs = False
        while (message := self._next()) is not None:
            kind, body = message
            if kind == _PARSE:
                name, _, rest = body.partition(b"\0")
                known = self._text in rest
                (self._known.add if known else self._known.discard)(name)
            elif kind == _BIND:
                name = body.split(b"\0", 2)[1]
                runs = runs or name in self._known
        return runs

    def _next(self) -> tuple[int, bytes] | None:
        """Return the type and the body of the next complete message, if any."""
        head = 1 if self._started else 0
        if len(self._buffer) < head + 4:
            return None
        length = int.from_bytes(self._buffer[head : head + 4], "big")
        if len(self._buffer) < head + length:
            return None
        kind = self._buffer[0] if head else 0
        body = bytes(self._buffer[head + 4 : head + length])
        del self._buffer[: head + length]
        self._started = self._started or body.startswith(_VERSION)
        return kind, body
