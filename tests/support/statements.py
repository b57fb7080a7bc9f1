"""Which statements a client of PostgreSQL runs, read from the bytes that it sends.

The messages are those of the protocol 3.0 (PostgreSQL's manual, "Message Formats"): a byte for the
type and a length that counts itself; those up to the start-up have no type. A statement is known by
the text in its Parse, and runs with each Bind that names it.
"""

from __future__ import annotations

# The server's last word on what it was asked, outside of a transaction.
READY = b"Z\x00\x00\x00\x05I"

_PARSE, _BIND = ord("P"), ord("B")
# What a start-up begins with: version 3.0. Before it a client may ask for encryption.
_VERSION = b"\x00\x03\x00\x00"


class Statements:
    """What one client sends.

    Args:
        text: of the statements to look out for.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._begun = False
        self._buffer = bytearray()
        self._known: set[bytes] = set()

    def runs(self, data: bytes) -> bool:
        """Takes what was sent next; tells whether such a statement is run with it."""
        self._buffer += data
        found = False
        while (message := self._next()) is not None:
            kind, body = message
            if kind == _PARSE:
                name, _, rest = body.partition(b"\0")
                known = self._text in rest
                (self._known.add if known else self._known.discard)(name)
            elif kind == _BIND:
                name = body.split(b"\0", 2)[1]
                found = found or name in self._known
        return found

    def _next(self) -> tuple[int, bytes] | None:
        """A message that has come as a whole: its type, and what is in it."""
        head = 1 if self._begun else 0
        if len(self._buffer) < head + 4:
            return None
        length = int.from_bytes(self._buffer[head : head + 4], "big")
        if len(self._buffer) < head + length:
            return None
        kind = self._buffer[0] if head else 0
        body = bytes(self._buffer[head + 4 : head + length])
        del self._buffer[: head + length]
        self._begun = self._begun or body.startswith(_VERSION)
        return kind, body
