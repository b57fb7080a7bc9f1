"""Embedded Valkey: it is private, and empty after each start."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import AuthenticationError, Redis

from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.valkey import EmbeddedValkey
from support.server import Server


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    with DataFolder.hold(tmp_path / 'with a space and a "quote"') as folder:
        yield folder


@pytest.fixture
def valkey(folder: DataFolder) -> EmbeddedValkey:
    return EmbeddedValkey(folder=folder)


@pytest.fixture
def server(valkey: EmbeddedValkey, folder: DataFolder) -> Iterator[Server]:
    server = Server(valkey.program(), log=folder.logs / "valkey.log")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_server_accepts_only_its_password(
    valkey: EmbeddedValkey, folder: DataFolder, server: Server
) -> None:
    password = folder.secret("valkey")
    assert stat.S_IMODE((folder.path / "valkey" / "valkey.conf").stat().st_mode) == 0o600
    assert password not in " ".join(psutil.Process(server.pid).cmdline())
    assert password not in server.log.read_text()
    with Redis.from_url(valkey.url) as client:
        assert client.ping()
    with (
        Redis.from_url(valkey.url.replace(password, "guess")) as client,
        pytest.raises(AuthenticationError),
    ):
        client.ping()


def test_restarted_server_is_empty(
    valkey: EmbeddedValkey, folder: DataFolder, server: Server
) -> None:
    with Redis.from_url(valkey.url) as client:
        client.set("key", "value")
    server.stop()
    server.start()
    with Redis.from_url(valkey.url) as client:
        assert client.get("key") is None
    assert {path.name for path in (folder.path / "valkey").iterdir()} == {"valkey.conf"}
