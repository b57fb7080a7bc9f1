"""The messages between a worker and a handler process: length-prefixed msgpack."""

from __future__ import annotations

from typing import Any, BinaryIO

import msgspec

from headrace_core.domain.job_log import LogLine
from headrace_worker.api.context import Attempt
from headrace_worker.runners.job_log import LogSettings

_LENGTH_BYTES = 4
# The exit code of a process whose handler has closed the channel: EX_IOERR in sysexits.h.
CHANNEL_LOST = 74


class Run(msgspec.Struct, tag="run", tag_field="frame", array_like=True):
    """Run the attempt's handler, registered by `module`, for at most `time_left` seconds.

    The process replaces `attempt.ends`, which is a time on the worker's clock.
    """

    module: str
    payload: str
    attempt: Attempt
    time_left: float


class Cancel(msgspec.Struct, tag="cancel", tag_field="frame", array_like=True):
    """Cancel the running handler."""


class Response(msgspec.Struct, tag="response", tag_field="frame", array_like=True):
    """Accept the last report. If `fail` is set, reject it: the handler fails with this message."""

    fail: str = ""


class Progressed(msgspec.Struct, tag="progressed", tag_field="frame", array_like=True):
    """The progress of the handler."""

    fraction: float
    message: str
    counters: str


class Output(msgspec.Struct, tag="output", tag_field="frame", array_like=True):
    """A piece of output."""

    chunk: str


class Completing(msgspec.Struct, tag="completing", tag_field="frame", array_like=True):
    """The handler is about to complete its job, with a result of `size` bytes."""

    size: int


class Logged(msgspec.Struct, tag="logged", tag_field="frame", array_like=True):
    """A line for the log of the job. It gets no response."""

    line: LogLine


class Dropped(msgspec.Struct, tag="dropped", tag_field="frame", array_like=True):
    """The number of lines over the limits of the job's log. It gets no response."""

    lines: int


class Returned(msgspec.Struct, tag="returned", tag_field="frame", array_like=True):
    """The handler returned `result` as JSON. If `last`, its process cannot run another handler."""

    result: str
    last: bool = False


class Raised(msgspec.Struct, tag="raised", tag_field="frame", array_like=True):
    """The handler raised an exception. `kind` is `fail`, `retry`, `payload` or `error`."""

    kind: str
    type: str
    message: str
    after: float | None = None
    stack_trace: str = ""
    last: bool = False


class LogOptions(msgspec.Struct, frozen=True):
    """The settings of logs, which a process receives as its argument. Implements `LogSettings`."""

    log_level: str
    log_format: str
    job_log_level: str
    job_log_lines: int
    job_log_bytes: int
    store_stack_traces: bool


ToHandler = Run | Cancel | Response
Report = Progressed | Output | Completing
FromHandler = Report | Logged | Dropped | Returned | Raised

decode_to_handler = msgspec.msgpack.Decoder(ToHandler).decode
decode_from_handler = msgspec.msgpack.Decoder(FromHandler).decode


decode_log_settings = msgspec.json.Decoder(LogOptions).decode


def encode_log_settings(settings: LogSettings) -> str:
    """Return the argument of a handler process."""
    options = msgspec.convert(settings, LogOptions, from_attributes=True)
    return msgspec.json.encode(options).decode()


def encode(message: ToHandler | FromHandler) -> bytes:
    """Return the bytes of a message, preceded by their length."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES) + body


def read_body(stream: BinaryIO) -> bytes | None:
    """Read the bytes of the next message; return None at the end of the stream."""
    head = stream.read(_LENGTH_BYTES)
    if len(head) < _LENGTH_BYTES:
        return None
    size = int.from_bytes(head)
    body = stream.read(size)
    return body if len(body) == size else None


class TooLarge(Exception):
    """A message of `size` bytes exceeds the `limit`."""

    def __init__(self, size: int, *, limit: int) -> None:
        super().__init__(f"the message has {size} bytes; the limit is {limit}")
        self.size = size
        self.limit = limit


class MessageReader:
    """Read the messages of a stream. A cancelled `receive` loses no data.

    Args:
        reader: the stream.
        max_bytes: the maximum size of a message.
    """

    def __init__(self, reader: Any, *, max_bytes: int) -> None:
        self._reader = reader
        self._max_bytes = max_bytes
        # The size of the next message, if its head has been read but not its body.
        self._size: int | None = None

    async def receive(self) -> bytes:
        """Return the bytes of the next message.

        Raises:
            asyncio.IncompleteReadError: the other end is closed.
            TooLarge: the message exceeds `max_bytes`. Its body has not been read.
        """
        if self._size is None:
            self._size = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
        if self._size > self._max_bytes:
            raise TooLarge(self._size, limit=self._max_bytes)
        body: bytes = await self._reader.readexactly(self._size)
        self._size = None
        return body
