"""`python -m headrace_core migrate`: brings the database to the schema of this version."""

from __future__ import annotations

import argparse
import sys

import asyncpg
import sqlalchemy.exc
import structlog

from headrace_core import logs
from headrace_core.domain.errors import Unavailable
from headrace_core.settings import Settings
from headrace_core.store.database import server_error
from headrace_core.store.migrate import migrate
from headrace_core.store.schema import MigrationRefused


def main() -> int:
    """Reads the command line and runs what it says; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m headrace_core",
        description="Maintains Headrace's database. HEADRACE_DATABASE_URL says which.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    to_schema = commands.add_parser(
        "migrate", help="bring the database to the schema of this version"
    )
    to_schema.add_argument(
        "--restored",
        action="store_true",
        help="the database comes from a backup: refuse the cursors that were given since",
    )
    arguments = parser.parse_args()
    settings = Settings()
    logs.configure(settings, service="migrate")
    try:
        migrate(settings, restored=arguments.restored)
    except MigrationRefused as error:
        return _fail(f"{error}")
    except (
        OSError,
        TimeoutError,
        Unavailable,
        asyncpg.PostgresError,
        sqlalchemy.exc.DBAPIError,
    ) as error:
        return _fail(_reason(error, settings))
    structlog.get_logger().info("database_migrated")
    return 0


def _fail(reason: str) -> int:
    sys.stderr.write(f"headrace migrate: {reason}\n")
    return 1


def _reason(error: BaseException, settings: Settings) -> str:
    answer = server_error(error)
    if answer is None:
        # The text of a driver may quote the URL, and the password with it.
        return (
            "the database of HEADRACE_DATABASE_URL cannot be reached "
            f"({type(error).__name__}). Is it running, and are host and port right?"
        )
    if isinstance(answer, asyncpg.InsufficientPrivilegeError):
        return (
            f"{answer.message}. The role needs CREATE on the database, or the schema "
            f'"{settings.database_schema}" (HEADRACE_DATABASE_SCHEMA) as its owner: '
            f"CREATE SCHEMA {settings.database_schema} AUTHORIZATION the_role"
        )
    return f"the database of HEADRACE_DATABASE_URL refused: {answer.message}"


if __name__ == "__main__":
    sys.exit(main())
