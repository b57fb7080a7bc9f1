"""A TCP proxy that a test can slow, hold, mute or cut, to part one client from a server."""

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

# What one way takes while nothing passes, until its sender has to wait, in bytes.
_BUFFER = 65_536


class Connection:
    """One connection through a proxy.

    Attributes:
        sent: which of the proxy's marks the client has sent on it.
        last_reply: when the client was given something last, by the monotonic clock; None: never.
        doomed: its next answer is lost, and it is cut when the server has given it.
    """

    def __init__(self, proxy: Proxy) -> None:
        self.sent: set[bytes] = set()
        self.last_reply: float | None = None
        self.doomed = False
        self._proxy = proxy
        self._statements = Statements(proxy.statement) if proxy.statement else None
        # The end of the answer that is lost, which may come in pieces.
        self._tail = b""
        self._client = _End(self)
        self._server = _End(self)
        self._client.peer, self._server.peer = self._server, self._client
        self.opened: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was neither broken off nor has ended."""
        return self in self._proxy.connections

    async def open(self, client: socket.socket, host: str | None, port: int | None) -> None:
        """Takes the client's end, and connects to the server."""
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: self._client, client)
            await loop.create_connection(lambda: self._server, host, port)
        except OSError:
            self.drop()

    def drop(self) -> None:
        """Breaks it off, at both ends."""
        if self.opened is not None:
            self.opened.cancel()
        if self._idle is not None:
            self._idle.cancel()
        for end in (self._client, self._server):
            end.abort()
        self._proxy.connections.discard(self)

    def finish(self) -> None:
        """Closes it, once what was passed on has been sent."""
        if self._idle is not None:
            self._idle.cancel()
        for end in (self._client, self._server):
            end.close()
        self._proxy.connections.discard(self)

    def flush(self) -> None:
        """Passes on what waits and may pass."""
        for end in (self._client, self._server):
            end.flush()

    def came(self, end: _End, data: bytes) -> None:
        """Notes what the client has sent."""
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
        """Whether something from this end is not to arrive."""
        return end is self._server and (self.doomed or self._proxy.mutes(self))

    def is_over(self, end: _End, data: bytes) -> bool:
        """Whether with this the server has answered what a doomed connection is cut for."""
        if end is not self._server or not self.doomed:
            return False
        self._tail = (self._tail + data)[-len(READY) :]
        return self._tail == READY

    def passed(self, end: _End) -> None:
        if end is self._server:
            self.last_reply = time.monotonic()
            self._watch_idle()

    def _watch_idle(self) -> None:
        """Break it off when the server sends nothing for the proxy's idle timeout."""
        if self._idle is not None:
            self._idle.cancel()
        if self._proxy.idle is not None:
            self._idle = asyncio.get_running_loop().call_later(self._proxy.idle, self.drop)


class _End(asyncio.Protocol):
    """One end of a connection: what comes from it waits here until it goes to its peer."""

    peer: _End

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        # What has come, with when it may pass: bytes, its end (b""), or its loss (None).
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._size = 0
        self._full = False
        self._timer: asyncio.TimerHandle | None = None
        # Whether it has said that nothing more comes, and its peer was told.
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have another base.
        self._transport = cast("asyncio.Transport", transport)
        if self._connection.is_open:
            self.peer.flush()
        else:
            # The other end went while this one was being connected.
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._connection.came(self, data)
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
        """Passes on what has waited for long enough, unless the connection is held."""
        while self._waiting and self._connection.may_pass():
            due, item = self._waiting[0]
            late = due - time.monotonic()
            if late > 0:
                if self._timer is None:
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(late, self._tick)
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
    """Forwards to the server of a URL, on a port of its own.

    Args:
        url: with host and port of the server.
        marks: texts by which connections are told apart, once the client has sent them
            (`b"LISTEN "`, say).
        statement: text of PostgreSQL's statements whose answers can be lost.

    Attributes:
        delay: how late everything comes, each way, in seconds.
        idle: after how many seconds without an answer a connection is broken off; None: never.
        dooms: is asked when such a statement is run whether its answer is lost, and the connection
            is cut in its place.
        connections: those that are open.
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
        """The same URL through the proxy."""
        user = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{user[0]}{user[1]}{self.address}").geturl()

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listens; after a cut on the same port as before."""
        # None that a client's own end could be given while it tries to reach us after a cut.
        self._port = self._port or free_port()
        # A server of asyncio's own loses connections that come in the instant when it is closed.
        self._listening = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        self._listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    async def cut(self) -> None:
        """Refuses new connections and drops those that there are."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        for connection in [*self.connections]:
            connection.drop()
        # The transports close in the loop's next turn.
        await asyncio.sleep(0)

    def hold(self, *, sent: bytes = b"", old: bool = False) -> None:
        """Lets nothing pass, as a network does that swallows packets: nobody is told.

        What was on its way arrives after `release`, as TCP would have it, an end too.

        Args:
            sent: only on connections on which the client has sent this mark, or comes to.
            old: only on those that there are now.
        """
        assert not sent or sent in self.marks, "the proxy does not look out for this mark"
        there = set(self.connections)
        self._held = lambda connection: (
            (not sent or sent in connection.sent) and (not old or connection in there)
        )

    def mute(self, *, sent: bytes = b"") -> None:
        """Loses what the server answers, while what it is asked still arrives.

        Args:
            sent: as for `hold`.
        """
        assert not sent or sent in self.marks, "the proxy does not look out for this mark"
        self._muted = lambda connection: not sent or sent in connection.sent

    def release(self) -> None:
        """Lets everything pass again. Answers that were lost stay so."""
        self._held = self._muted = None
        for connection in [*self.connections]:
            connection.flush()

    def holds(self, connection: Connection) -> bool:
        """Whether nothing passes on a connection."""
        return self._held is not None and self._held(connection)

    def mutes(self, connection: Connection) -> bool:
        """Whether the answers on a connection are lost."""
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
        # What is cancelled before its begin has nobody yet who would close it.
        connection.opened.add_done_callback(lambda task: task.cancelled() and client.close())
