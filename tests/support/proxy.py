"""A TCP proxy that a test can slow down, hold, mute or cut."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast
from urllib.parse import urlsplit

from headrace_standalone.embedded.port import free_port
from support.statements import READY, Statements

# Bytes that a held direction buffers before it pauses the sender.
_BUFFER = 65_536


class Connection:
    """One connection through a proxy.

    Attributes:
        sent: the marks that the client has sent so far.
        last_reply: the monotonic time of the last data from the server; None before the first data.
        doomed: whether the next response is lost, after which the connection is cut.
    """

    def __init__(self, proxy: Proxy) -> None:
        self.sent: set[bytes] = set()
        self.last_reply: float | None = None
        self.doomed = False
        self._proxy = proxy
        self._statements = Statements(proxy.statement) if proxy.statement else None
        # The last bytes of the lost response so far, because a response may arrive in pieces.
        self._tail = b""
        self._client = _End(self)
        self._server = _End(self)
        self._client.peer, self._server.peer = self._server, self._client
        self.opened: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """True until the connection is dropped or has ended."""
        return self in self._proxy.connections

    async def open(self, client: socket.socket, host: str | None, port: int | None) -> None:
        """Accept the client's side, and connect to the server."""
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: self._client, client)
            await loop.create_connection(lambda: self._server, host, port)
        except OSError:
            self.drop()

    def drop(self) -> None:
        """Abort the connections to both sides."""
        if self.opened is not None:
            self.opened.cancel()
        if self._idle is not None:
            self._idle.cancel()
        for end in (self._client, self._server):
            end.abort()
        self._proxy.connections.discard(self)

    def finish(self) -> None:
        """Close the connections to both sides after the forwarded data is sent."""
        if self._idle is not None:
            self._idle.cancel()
        for end in (self._client, self._server):
            end.close()
        self._proxy.connections.discard(self)

    def flush(self) -> None:
        """Forward all data that may pass now."""
        for end in (self._client, self._server):
            end.flush()

    def received(self, end: _End, data: bytes) -> None:
        """Record the marks and statements in data from the client."""
        if end is not self._client:
            return
        self.sent.update(mark for mark in self._proxy.marks if mark in data)
        if self._statements is not None and self._statements.runs(data):
            self.doomed = self.doomed or self._proxy.dooms()

    def may_pass(self) -> bool:
        return not self._proxy.holds(self)

    def delay(self) -> float:
        return self._proxy.delay

    def is_lost(self, end: _End) -> bool:
        """Return whether data from this side is dropped."""
        return end is self._server and (self.doomed or self._proxy.mutes(self))

    def is_over(self, end: _End, data: bytes) -> bool:
        """Return whether `data` completes the lost response of a doomed connection."""
        if end is not self._server or not self.doomed:
            return False
        self._tail = (self._tail + data)[-len(READY) :]
        return self._tail == READY

    def passed(self, end: _End) -> None:
        if end is self._server:
            self.last_reply = time.monotonic()
            self._watch_idle()

    def _watch_idle(self) -> None:
        """Drop the connection if the server sends nothing for the proxy's idle timeout."""
        if self._idle is not None:
            self._idle.cancel()
        if self._proxy.idle is not None:
            self._idle = asyncio.get_running_loop().call_later(self._proxy.idle, self.drop)


class _End(asyncio.Protocol):
    """One side of a connection, with the data that waits for its peer."""

    peer: _End

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        # When each item may pass, and the item: bytes, EOF (b""), or a lost connection (None).
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._size = 0
        self._full = False
        self._timer: asyncio.TimerHandle | None = None
        # True after the EOF of this side has been forwarded.
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have a different base class.
        self._transport = cast("asyncio.Transport", transport)
        if self._connection.is_open:
            self.peer.flush()
        else:
            # The other side disconnected before this one was connected.
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._connection.received(self, data)
        self._add(data)

    def eof_received(self) -> bool:
        self._add(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._add(None)

    def pause_writing(self) -> None:
        self.peer.read_on(False)

    def resume_writing(self) -> None:
        self.peer.read_on(True)

    def read_on(self, wanted: bool) -> None:
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.resume_reading if wanted else self._transport.pause_reading)()

    def write(self, item: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if item:
            self._transport.write(item)
        else:
            with suppress(OSError, RuntimeError):
                self._transport.write_eof()

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def abort(self) -> None:
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()

    def _add(self, item: bytes | None) -> None:
        self._waiting.append((time.monotonic() + self._connection.delay(), item))
        self._size += len(item or b"")
        self.flush()
        if self._size > _BUFFER and not self._full:
            self._full = True
            self.read_on(False)

    def flush(self) -> None:
        """Forward the due data, unless the connection is held."""
        while self._waiting and self._connection.may_pass():
            due, item = self._waiting[0]
            delay = due - time.monotonic()
            if delay > 0:
                if self._timer is None:
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(delay, self._tick)
                return
            if item is None:
                self._connection.finish()
                return
            if not self.peer.is_open:
                return
            self._waiting.popleft()
            self._size -= len(item)
            if not item:
                self.ended = True
                if self.peer.ended:
                    self._connection.finish()
                    return
            if not self._connection.is_lost(self):
                self.peer.write(item)
                self._connection.passed(self)
            elif self._connection.is_over(self, item):
                self._connection.drop()
                return
        if self._full and self._size <= _BUFFER:
            self._full = False
            self.read_on(True)

    def _tick(self) -> None:
        self._timer = None
        self.flush()


class Proxy:
    """Forwards a local port to a server.

    Args:
        url: a URL with the host and port of the server.
        marks: texts by which connections are distinguished once the client has sent them, such as
        `b"LISTEN "`.
        statement: the text of the PostgreSQL statements whose responses can be lost.

    Attributes:
        delay: the delay of data in each direction, in seconds.
        idle: the seconds of server silence after which a connection is dropped; None for no limit.
        dooms: called for each such statement. If it returns True, the response is lost and the
        connection is cut.
        connections: the open connections.
    """

    def __init__(self, url: str, *, marks: tuple[bytes, ...] = (), statement: bytes = b"") -> None:
        self._parts = urlsplit(url)
        self._listening: socket.socket | None = None
        self._port = 0
        self._held: Callable[[Connection], bool] | None = None
        self._muted: Callable[[Connection], bool] | None = None
        self.marks = marks
        self.statement = statement
        self.delay = 0.0
        self.idle: float | None = None
        self.dooms: Callable[[], bool] = lambda: False
        self.connections: set[Connection] = set()

    @property
    def url(self) -> str:
        """The URL of the server through the proxy."""
        user = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{user[0]}{user[1]}{self.address}").geturl()

    @property
    def address(self) -> str:
        """The address of the proxy, `host:port`."""
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen; after a cut, listen on the same port again."""
        # The system never assigns a port from `free_port` to a client, even during a cut.
        self._port = self._port or free_port()
        # An asyncio server leaks connections that arrive while it is being closed.
        self._listening = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        self._listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    async def cut(self) -> None:
        """Refuse new connections and drop the open ones."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        for connection in [*self.connections]:
            connection.drop()
        # The transports close in the next loop iteration.
        await asyncio.sleep(0)

    def hold(self, *, sent: bytes = b"", old: bool = False) -> None:
        """Hold all data without an error, like a network that drops packets.

        Held data and EOFs arrive after `release`, as with TCP.

        Args:
            sent: hold only connections on which the client sends this mark, now or later.
            old: hold only the connections that are open now.
        """
        assert not sent or sent in self.marks, "unknown mark"
        existing = set(self.connections)
        self._held = lambda connection: (
            (not sent or sent in connection.sent) and (not old or connection in existing)
        )

    def mute(self, *, sent: bytes = b"") -> None:
        """Drop all responses of the server, while requests still arrive.

        Args:
            sent: as for `hold`.
        """
        assert not sent or sent in self.marks, "unknown mark"
        self._muted = lambda connection: not sent or sent in connection.sent

    def release(self) -> None:
        """Forward all data again. Dropped responses stay lost."""
        self._held = self._muted = None
        for connection in [*self.connections]:
            connection.flush()

    def holds(self, connection: Connection) -> bool:
        """Return whether a connection is held."""
        return self._held is not None and self._held(connection)

    def mutes(self, connection: Connection) -> bool:
        """Return whether the responses on a connection are dropped."""
        return self._muted is not None and self._muted(connection)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                client, _ = listening.accept()
                client.setblocking(False)
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        connection = Connection(self)
        self.connections.add(connection)
        connection.opened = asyncio.create_task(
            connection.open(client, self._parts.hostname, self._parts.port)
        )
        # If the task is cancelled before it starts, it does not close the socket.
        connection.opened.add_done_callback(lambda task: task.cancelled() and client.close())
