"""Links between processes: each fault blocks exactly its traffic."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from support.proxy import Proxy
from support.until import until

MARK = b"LISTEN "
DEADLINE_S = 60
# Grace period in which unexpected data would arrive, in seconds.
SILENCE_S = 0.2


class Echo(asyncio.Protocol):
    """A server connection that records and returns all data."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.open.add(self)

    def data_received(self, data: bytes) -> None:
        self._server.received.put_nowait(data)
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open.discard(self)


class Server:
    """The received data and the open connections of a server."""

    def __init__(self) -> None:
        self.received = asyncio.Queue[bytes]()
        self.open: set[Echo] = set()


class Client:
    """The client side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self, within: float = DEADLINE_S) -> bytes:
        async with asyncio.timeout(within):
            return await self._reader.read(1000)

    async def send_and_receive(self, data: bytes) -> bytes:
        await self.send(data)
        return await self.receive()

    async def receives_nothing(self) -> bool:
        try:
            await self.receive(SILENCE_S)
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Server, Proxy]]:
    """A server and a link to it."""
    server = Server()
    listening = await asyncio.get_running_loop().create_server(lambda: Echo(server), "127.0.0.1", 0)
    link = Proxy(f"tcp://127.0.0.1:{listening.sockets[0].getsockname()[1]}", marks=(MARK,))
    await link.start()
    yield server, link
    await link.cut()
    listening.close()
    await until(lambda: not server.open)


async def connect(link: Proxy) -> Client:
    return Client(*await asyncio.open_connection(*address(link)))


@asynccontextmanager
async def connecting(link: Proxy, turns: int) -> AsyncIterator[socket.socket]:
    """Connect a client; run the event loop `turns` times while the proxy accepts the connection."""
    with socket.create_connection(address(link), timeout=DEADLINE_S) as client:
        client.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)
        yield client


def address(link: Proxy) -> tuple[str, int]:
    host, _, port = link.address.rpartition(":")
    return host, int(port)


async def test_link_passes_data_in_both_directions(echo: tuple[Server, Proxy]):
    _, link = echo
    end = await connect(link)
    assert await end.send_and_receive(b"hello") == b"hello"
    (connection,) = link.connections
    assert connection.last_reply is not None
    await end.close()


async def test_held_data_arrives_after_the_release(echo: tuple[Server, Proxy]):
    server, link = echo
    end = await connect(link)
    link.hold()
    await end.send(b"hello")
    assert await end.receives_nothing()
    assert server.received.empty()
    link.release()
    assert await end.receive() == b"hello"
    await end.close()


async def test_close_of_a_held_connection_is_delayed(echo: tuple[Server, Proxy]):
    _, link = echo
    end = await connect(link)
    await end.send_and_receive(b"hello")
    link.hold()
    await end.close()
    await asyncio.sleep(SILENCE_S)
    assert len(link.connections) == 1
    link.release()
    await until(lambda: not link.connections)


async def test_hold_by_mark_affects_only_marked_connections(echo: tuple[Server, Proxy]):
    _, link = echo
    marked, unmarked = await connect(link), await connect(link)
    await marked.send_and_receive(b"LISTEN a")
    link.hold(sent=MARK)
    await marked.send(b"hello")
    assert await unmarked.send_and_receive(b"hello") == b"hello"
    assert await marked.receives_nothing()
    # The link also holds the mark itself.
    await unmarked.send(b"LISTEN b")
    assert await unmarked.receives_nothing()
    link.release()
    assert await marked.receive() == b"hello"
    assert await unmarked.receive() == b"LISTEN b"
    for end in (marked, unmarked):
        await end.close()


async def test_hold_of_existing_connections_passes_new_ones(echo: tuple[Server, Proxy]):
    _, link = echo
    old = await connect(link)
    await old.send_and_receive(b"LISTEN a")
    link.hold(sent=MARK, old=True)
    new = await connect(link)
    assert await new.send_and_receive(b"LISTEN b") == b"LISTEN b"
    await old.send(b"hello")
    assert await old.receives_nothing()
    for end in (old, new):
        await end.close()


async def test_muted_link_drops_only_responses(echo: tuple[Server, Proxy]):
    server, link = echo
    end = await connect(link)
    link.mute()
    await end.send(b"hello")
    async with asyncio.timeout(DEADLINE_S):
        assert await server.received.get() == b"hello"
    assert await end.receives_nothing()
    link.release()
    assert await end.send_and_receive(b"again") == b"again"
    await end.close()


async def test_slow_link_delays_both_directions(echo: tuple[Server, Proxy]):
    _, link = echo
    end = await connect(link)
    link.delay = 0.1
    started = asyncio.get_running_loop().time()
    assert await end.send_and_receive(b"hello") == b"hello"
    assert asyncio.get_running_loop().time() - started >= 0.2
    await end.close()


async def test_cut_drops_connections_and_refuses_new_ones(echo: tuple[Server, Proxy]):
    _, link = echo
    end = await connect(link)
    await end.send_and_receive(b"hello")
    await link.cut()
    with suppress(ConnectionError):
        assert await end.receive() == b""
    with pytest.raises(ConnectionError):
        await connect(link)
    await link.start()
    reconnected = await connect(link)
    assert await reconnected.send_and_receive(b"hello") == b"hello"
    for each in (end, reconnected):
        await each.close()


@pytest.mark.parametrize("turns", range(8))
async def test_cut_drops_connections_that_are_being_accepted(
    echo: tuple[Server, Proxy], turns: int
):
    server, link = echo
    async with connecting(link, turns) as client:
        await link.cut()
        async with asyncio.timeout(DEADLINE_S):
            with suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    await until(lambda: not server.open and not link.connections)


@pytest.mark.parametrize("turns", range(8))
async def test_client_reset_during_its_accept_leaves_no_connection(
    echo: tuple[Server, Proxy], turns: int
):
    server, link = echo
    async with connecting(link, turns) as client:
        # The client resets the connection instead of closing it.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end = await connect(link)
    assert await end.send_and_receive(b"hello") == b"hello"
    await end.close()
    await until(lambda: not server.open and not link.connections)


async def test_statement_with_a_lost_response_is_committed(database_url: str):
    link = Proxy(database_url, statement=b"INSERT INTO numbers")
    await link.start()
    direct = await asyncpg.connect(database_url)
    await direct.execute("CREATE TABLE numbers (number integer)")
    for size in (1, 10_000):
        connection = await asyncpg.connect(link.url)
        # With the second size, the server needs several writes for the response.
        insert = f"INSERT INTO numbers SELECT g FROM generate_series(1, {size}) g RETURNING number"
        assert len(await connection.fetch(insert)) == size
        link.dooms = lambda: True
        # The responses to other statements are not lost.
        assert await connection.fetchval("SELECT count(*) FROM numbers WHERE number = 1") > 0
        with pytest.raises((ConnectionError, asyncpg.PostgresConnectionError)):
            await connection.fetch(insert)
        link.dooms = lambda: False
        assert (
            await direct.fetchval("SELECT count(*) FROM numbers WHERE number = $1", size) % 2 == 0
        )
        assert not link.connections
        connection.terminate()
        await direct.execute("TRUNCATE numbers")
    await direct.close()
    await link.cut()
