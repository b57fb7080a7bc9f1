"""`python -m headrace_core migrate`: brings the database to the schema of this version."""

from __future__ import annotations

import argparse
import sys

import structlog

from headrace_core import logs
from headrace_core.settings import Settings
from headrace_core.store.migrate import migrate


def main() -> int:
    """Reads the command line and runs what it says; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m headrace_core",
        description="Maintains Headrace's database. HEADRACE_DATABASE_URL says which.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="bring the database to the schema of this version")
    parser.parse_args()
    settings = Settings()
    logs.configure(settings, service="migrate")
    migrate(settings)
    structlog.get_logger().info("database_migrated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
