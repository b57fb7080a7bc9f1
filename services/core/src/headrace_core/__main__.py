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
from headrace_core.store.migrate import migrate


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
    except (
        OSError,
        TimeoutError,
        Unavailable,
        asyncpg.PostgresError,
        sqlalchemy.exc.DBAPIError,
    ) as error:
        # The text of a driver may quote the URL, and the password with it.
        sys.stderr.write(
            f"headrace migrate: the database of HEADRACE_DATABASE_URL cannot be used "
            f"({type(error).__name__}). Is it running, and are host, name and password right?\n"
        )
        return 1
    structlog.get_logger().info("database_migrated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
