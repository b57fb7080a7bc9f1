"""Fresh PostgreSQL databases, copied from a template that is migrated once."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import asyncpg
import psycopg
from pydantic import SecretStr

from headrace_core.runtime.settings import Settings
from headrace_core.store.migrate import migrate
from headrace_core.store.sql.tables import access_version, installation, metadata, tenants
from support.roles import Roles
from support.server import run_async


class Databases:
    """Databases on one server.

    Args:
        url: a database on the server, with a role that may create databases.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        # Several test sessions may use the same external server.
        self._prefix = f"headrace_test_{os.getpid()}"
        self._numbers = itertools.count(1)
        self._template = f"{self._prefix}_template"
        self._shared = f"{self._prefix}_shared"
        self._has_shared = False
        # A session with the shared database. Its cached plans make it much faster than a new one.
        self._cleaner: psycopg.Connection | None = None

    @contextmanager
    def template(self) -> Iterator[None]:
        """Create the template that `fresh` copies, for the duration of the block."""
        self._execute(f"CREATE DATABASE {self._template}")
        try:
            migrate(Settings(database_url=SecretStr(self._url_of(self._template))))
            yield
        finally:
            if self._cleaner is not None:
                self._cleaner.close()
            for name in (self._template, self._shared):
                self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def grant(self, roles: Roles) -> None:
        """Grant roles their privileges on the template, and thereby on all later databases."""
        roles.grant(self._url_of(self._template))

    @contextmanager
    def fresh(self, *, migrated: bool = True) -> Iterator[str]:
        """Create a database for the duration of the block; yield its URL."""
        name = f"{self._prefix}_{next(self._numbers)}"
        source = self._template if migrated else "template0"
        # Statements in tests use unqualified table names. The template keeps the default path.
        path = f"ALTER DATABASE {name} SET search_path = headrace, public" if migrated else ""
        self._execute(f"CREATE DATABASE {name} TEMPLATE {source}", path)
        try:
            yield self._url_of(name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def empty_shared(self) -> str:
        """Empty the shared database with the schema; return its URL.

        This is much faster than a new database. Tests must not change its schema.
        """
        url = self._url_of(self._shared)
        if not self._has_shared:
            self._execute(
                f"CREATE DATABASE {self._shared} TEMPLATE {self._template}",
                f"ALTER DATABASE {self._shared} SET search_path = headrace, public",
            )
            self._execute(_CREATE_CLEANER, url=url)
            self._has_shared = True
        try:
            self._empty_tables(url)
        except psycopg.OperationalError:
            # The previous test ended all sessions.
            self._cleaner = None
            self._empty_tables(url)
        return url

    def _empty_tables(self, url: str) -> None:
        if self._cleaner is None:
            self._cleaner = psycopg.connect(url, autocommit=True, connect_timeout=60)
        self._cleaner.execute("SELECT headrace_test.empty_tables()")

    def _url_of(self, name: str) -> str:
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()

    def _execute(self, *statements: str, url: str | None = None) -> None:
        _execute(url or self._url, *statements)


def shorten_logins(url: str) -> None:
    """Store the password with one hash iteration instead of 4,096.

    A test opens about seven connections. For each one, asyncpg computes the hashes in Python.
    """
    user = urlsplit(url)
    _execute(
        url,
        "SET scram_iterations = 1",
        f"ALTER ROLE {user.username} PASSWORD '{user.password}'",
    )


def _execute(url: str, *statements: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url, timeout=60, command_timeout=30)
        try:
            for statement in filter(None, statements):
                await connection.execute(statement)
        finally:
            await connection.close(timeout=10)

    run_async(execute)


# Tables that contain rows from the migrations.
_PERMANENT_TABLES = (installation, access_version, tenants)
_TABLES = [
    f"headrace.{table.name}" for table in metadata.sorted_tables if table not in _PERMANENT_TABLES
]
# A failed test may have left a session with an open transaction. For few rows DELETE is forty times
# faster than TRUNCATE; for many rows TRUNCATE leaves no dead ones.
_CREATE_CLEANER = f"""
    CREATE SCHEMA headrace_test;
    CREATE FUNCTION headrace_test.empty_tables() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
        -- Disable the triggers that protect the audit log.
        PERFORM set_config('session_replication_role', 'replica', true);
        IF pg_relation_size('headrace.job_events') > 1000000 THEN
            TRUNCATE {", ".join(_TABLES)};
        ELSE
            {" ".join(f"DELETE FROM {table};" for table in reversed(_TABLES))}
        END IF;
        DELETE FROM headrace.tenants WHERE name <> 'default';
        UPDATE headrace.access_version SET version = 0 WHERE version <> 0;
        UPDATE headrace.tenants
        SET state = 'active', delete_time = NULL, quotas = '{{}}', ceilings = '{{}}'
        WHERE state <> 'active' OR quotas <> '{{}}' OR ceilings <> '{{}}';
        PERFORM setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
        FROM pg_sequences WHERE schemaname = 'headrace';
    END $$;
"""
