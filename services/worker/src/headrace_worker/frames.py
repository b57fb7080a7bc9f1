"""What a worker and the process of an isolated handler say to each other: msgpack in frames."""

from __future__ import annotations

from datetime import datetime
from typing import Any, BinaryIO

import msgspec

_LENGTH_BYTES = 4


class Run(msgspec.Struct, tag="run", tag_field="frame", array_like=True):
    """Run this, within `time_left` seconds. `module` registers the handler of `type`."""

    module: str
    type: str
    payload: str
    job_id: str
    attempt: int
    queue: str
    tenant: str
    labels: dict[str, str]
    deadline: datetime
    time_left: float


class Cancel(msgspec.Struct, tag="cancel", tag_field="frame", array_like=True):
    """End soon."""


class Taken(msgspec.Struct, tag="taken", tag_field="frame", array_like=True):
    """What was said last was taken: say the next. `fail` ends the handler instead."""

    fail: str = ""


class Progressed(msgspec.Struct, tag="progressed", tag_field="frame", array_like=True):
    """How far it is."""

    fraction: float
    message: str
    counters: str


class Output(msgspec.Struct, tag="output", tag_field="frame", array_like=True):
    """A piece of output."""

    chunk: str


class Completing(msgspec.Struct, tag="completing", tag_field="frame", array_like=True):
    """It finishes its job itself, with a result of so many bytes."""

    size: int


class Returned(msgspec.Struct, tag="returned", tag_field="frame", array_like=True):
    """The handler returned this JSON text."""

    result: str


class Raised(msgspec.Struct, tag="raised", tag_field="frame", array_like=True):
    """The handler raised: `fail`, `retry` (after that many seconds), `payload` or anything else."""

    kind: str
    type: str
    message: str
    after: float | None = None


ToHandler = Run | Cancel | Taken
FromHandler = Progressed | Output | Completing | Returned | Raised

decode_to_handler = msgspec.msgpack.Decoder(ToHandler).decode
decode_from_handler = msgspec.msgpack.Decoder(FromHandler).decode


def frame(message: ToHandler | FromHandler) -> bytes:
    """A message with its length before it."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES) + body


def read_body(stream: BinaryIO) -> bytes | None:
    """The next message's bytes; None at the end of the stream."""
    head = stream.read(_LENGTH_BYTES)
    if len(head) < _LENGTH_BYTES:
        return None
    size = int.from_bytes(head)
    body = stream.read(size)
    return body if len(body) == size else None


class TooLarge(Exception):
    """A message has `size` bytes, and nobody can take that many."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


async def receive(reader: Any, *, max_bytes: int) -> bytes:
    """The next message's bytes.

    Raises:
        asyncio.IncompleteReadError: the other end is gone.
        TooLarge: it has more than `max_bytes`; nothing behind its head has been read.
    """
    size = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
    if size > max_bytes:
        raise TooLarge(size)
    body: bytes = await reader.readexactly(size)
    return body
