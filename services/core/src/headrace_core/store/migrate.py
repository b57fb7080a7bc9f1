"""Brings a database to the schema of this version."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config

from headrace_core.settings import Settings


def migrate(settings: Settings, *, revision: str = "head") -> None:
    """Runs the migrations that the database lacks. Calls at the same time wait for each other.

    Args:
        settings: where the database is.
        revision: how far to go.
    """
    command.upgrade(alembic_config(settings), revision)


async def migrate_async(settings: Settings) -> None:
    """As `migrate`, from within an event loop."""
    await asyncio.to_thread(migrate, settings)


def alembic_config(settings: Settings) -> Config:
    """Alembic's configuration; there is no file of it."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = settings.sqlalchemy_url
    return config
