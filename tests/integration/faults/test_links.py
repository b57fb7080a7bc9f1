"""The links between processes: what a fault lets through, and what it does not."""

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
DEADLINE_S = 10
# Long enough for what must not come to have come.
SHORT_S = 0.2


class Echo(asyncio.Protocol):
    """A connection of a server that says everything again, and remembers it."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.open.add(self)

    def data_received(self, data: bytes) -> None:
        self._server.heard.put_nowait(data)
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open.discard(self)


class Server:
    """What the connections of a server have in common."""

    def __init__(self) -> None:
        self.heard = asyncio.Queue[bytes]()
        self.open: set[Echo] = set()


class End:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self, within: float = DEADLINE_S) -> bytes:
        async with asyncio.timeout(within):
            return await self._reader.read(1000)

    async def ask(self, data: bytes) -> bytes:
        await self.send(data)
        return await self.receive()

    async def hears_nothing(self) -> bool:
        try:
            await self.receive(SHORT_S)
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


async def connect(link: Proxy) -> End:
    return End(*await asyncio.open_connection(*address(link)))


@asynccontextmanager
async def just_taken(link: Proxy, turns: int) -> AsyncIterator[socket.socket]:
    """A client's connection that the proxy has had so many turns of the loop to take."""
    with socket.create_connection(address(link), timeout=DEADLINE_S) as client:
        client.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)
        yield client


def address(link: Proxy) -> tuple[str, int]:
    host, _, port = link.address.rpartition(":")
    return host, int(port)


async def test_a_link_passes_everything(echo: tuple[Server, Proxy]):
    _, link = echo
    end = await connect(link)
    assert await end.ask(b"hello") == b"hello"
    (connection,) = link.connections
    assert connection.last_reply is not None
    await end.close()


async def test_what_is_held_arrives_after_the_release(echo: tuple[Server, Proxy]):
    server, link = echo
    end = await connect(link)
    link.hold()
    await end.send(b"hello")
    assert await end.hears_nothing()
    assert server.heard.empty()
    link.release()
    assert await end.receive() == b"hello"
    await end.close()


async def test_the_end_of_a_held_connection_is_held_too(echo: tuple[Server, Proxy]):
    _, link = echo
    end = await connect(link)
    await end.ask(b"hello")
    link.hold()
    await end.close()
    await asyncio.sleep(SHORT_S)
    assert len(link.connections) == 1
    link.release()
    await until(lambda: not link.connections)


async def test_only_connections_that_have_sent_a_mark_are_held(echo: tuple[Server, Proxy]):
    _, link = echo
    marked, plain = await connect(link), await connect(link)
    await marked.ask(b"LISTEN a")
    link.hold(sent=MARK)
    await marked.send(b"hello")
    assert await plain.ask(b"hello") == b"hello"
    assert await marked.hears_nothing()
    # The mark itself does not pass any more.
    await plain.send(b"LISTEN b")
    assert await plain.hears_nothing()
    link.release()
    assert await marked.receive() == b"hello"
    assert await plain.receive() == b"LISTEN b"
    for end in (marked, plain):
        await end.close()


async def test_only_old_connections_are_held(echo: tuple[Server, Proxy]):
    _, link = echo
    old = await connect(link)
    await old.ask(b"LISTEN a")
    link.hold(sent=MARK, old=True)
    new = await connect(link)
    assert await new.ask(b"LISTEN b") == b"LISTEN b"
    await old.send(b"hello")
    assert await old.hears_nothing()
    for end in (old, new):
        await end.close()


async def test_a_muted_link_loses_answers_alone(echo: tuple[Server, Proxy]):
    server, link = echo
    end = await connect(link)
    link.mute()
    await end.send(b"hello")
    async with asyncio.timeout(DEADLINE_S):
        assert await server.heard.get() == b"hello"
    assert await end.hears_nothing()
    link.release()
    assert await end.ask(b"again") == b"again"
    await end.close()


async def test_a_slow_link_delays_both_ways(echo: tuple[Server, Proxy]):
    _, link = echo
    end = await connect(link)
    link.delay = 0.1
    began = asyncio.get_running_loop().time()
    assert await end.ask(b"hello") == b"hello"
    assert asyncio.get_running_loop().time() - began >= 0.2
    await end.close()


async def test_a_cut_drops_connections_and_refuses_new_ones(echo: tuple[Server, Proxy]):
    _, link = echo
    end = await connect(link)
    await end.ask(b"hello")
    await link.cut()
    with suppress(ConnectionError):
        assert await end.receive() == b""
    with pytest.raises(ConnectionError):
        await connect(link)
    await link.start()
    again = await connect(link)
    assert await again.ask(b"hello") == b"hello"
    for each in (end, again):
        await each.close()


@pytest.mark.parametrize("turns", range(8))
async def test_a_cut_drops_connections_that_are_just_being_made(
    echo: tuple[Server, Proxy], turns: int
):
    server, link = echo
    async with just_taken(link, turns) as client:
        await link.cut()
        async with asyncio.timeout(DEADLINE_S):
            with suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    await until(lambda: not server.open and not link.connections)


@pytest.mark.parametrize("turns", range(8))
async def test_a_client_that_goes_while_it_is_being_connected_leaves_nothing(
    echo: tuple[Server, Proxy], turns: int
):
    server, link = echo
    async with just_taken(link, turns) as client:
        # It does not end what it says, it breaks off.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end = await connect(link)
    assert await end.ask(b"hello") == b"hello"
    await end.close()
    await until(lambda: not server.open and not link.connections)


async def test_a_statement_whose_answer_is_lost_has_been_committed(database_url: str):
    link = Proxy(database_url, statement=b"INSERT INTO gone")
    await link.start()
    direct = await asyncpg.connect(database_url)
    await direct.execute("CREATE TABLE gone (number integer)")
    for size in (1, 10_000):
        connection = await asyncpg.connect(link.url)
        # An answer that is longer than what the server sends at once, the second time.
        insert = f"INSERT INTO gone SELECT g FROM generate_series(1, {size}) g RETURNING number"
        assert len(await connection.fetch(insert)) == size
        link.dooms = lambda: True
        # Others are left alone.
        assert await connection.fetchval("SELECT count(*) FROM gone WHERE number = 1") > 0
        with pytest.raises((ConnectionError, asyncpg.PostgresConnectionError)):
            await connection.fetch(insert)
        link.dooms = lambda: False
        assert await direct.fetchval("SELECT count(*) FROM gone WHERE number = $1", size) % 2 == 0
        assert not link.connections
        connection.terminate()
        await direct.execute("TRUNCATE gone")
    await direct.close()
    await link.cut()
