"""A database role for each service, with exactly the privileges of `headrace_core.store.grants`.

With `HEADRACE_TEST_ROLES=1` every service of the test session uses its role.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from headrace_core.runtime.settings import Settings
from headrace_core.store.grants import Client, apply_grants
from headrace_core.store.sql.database import Database
from support.server import run_async

# The names that services give their connections, and their roles.
_CLIENTS = {
    "gateway": Client.GATEWAY,
    "scheduler": Client.SCHEDULER,
    "worker": Client.WORKER,
    "doctor": Client.OPS,
    "verify": Client.OPS,
}


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of a server, by client, and their common password."""

    names: Mapping[Client, str]
    password: str
    server: str

    def url(self, database_url: str, client: Client) -> str:
        """Return the URL of a database with the role of a client."""
        parts = urlsplit(database_url)
        host = parts.netloc.rpartition("@")[2]
        login = f"{quote(self.names[client])}:{self.password}"
        return parts._replace(netloc=f"{login}@{host}").geturl()

    def settings(self, settings: Settings, client: Client) -> Settings:
        """Return settings that use a client's role; those of another server are unchanged."""
        if _server_of(settings.database_url.get_secret_value()) != self.server:
            return settings
        url = self.url(settings.database_url.get_secret_value(), client)
        return settings.model_copy(update={"database_url": SecretStr(url)})

    def grant(self, database_url: str) -> None:
        """Grant the roles their privileges on a database."""
        settings = Settings(database_url=SecretStr(database_url))
        roles = {client: (name,) for client, name in self.names.items()}
        assert run_async(lambda: apply_grants(settings, roles)) == []


@contextmanager
def service_roles(server_url: str, *, name: str) -> Iterator[Roles]:
    """Create a role for each client on a server for the duration of the block.

    Args:
        server_url: a database on the server, with a role that may create roles.
        name: a part of the role names that is unique within this process.
    """
    names = {client: f"headrace_test_{os.getpid()}_{name}_{client}" for client in Client}
    roles = Roles(names=names, password=secrets.token_hex(16), server=_server_of(server_url))
    _execute(
        server_url,
        "SET scram_iterations = 1",
        *(f"CREATE ROLE {name} LOGIN PASSWORD '{roles.password}'" for name in names.values()),
    )
    try:
        yield roles
    finally:
        # The databases with grants to these roles no longer exist.
        _execute(server_url, *(f"DROP ROLE {name}" for name in names.values()))


# The roles of the session, if HEADRACE_TEST_ROLES is set.
_active: list[Roles] = []


def settings_of(settings: Settings, client: Client) -> Settings:
    """Return the settings of a service process, with its role if the session uses roles."""
    return _active[-1].settings(settings, client) if _active else settings


def grant_roles(url: str) -> None:
    """Grant the roles of the session, if it uses roles, their privileges on a new database."""
    if _active:
        _active[-1].grant(url)


def use_roles(patch: pytest.MonkeyPatch, roles: Roles) -> None:
    """Let each service that a test starts connect with its role."""
    _active.append(roles)
    connect = Database.__init__

    def connect_with_role(self: Database, settings: Settings, **options: Any) -> None:
        client = _CLIENTS.get(options["application"])
        connect(self, settings if client is None else roles.settings(settings, client), **options)

    patch.setattr(Database, "__init__", connect_with_role)


def _server_of(url: str) -> str:
    """Return the host and the port of a URL."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _execute(url: str, *statements: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url, timeout=60, command_timeout=30)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close(timeout=10)

    run_async(execute)
