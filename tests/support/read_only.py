"""A read-only database."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg

from headrace_core.runtime.settings import Settings


async def set_read_only(settings: Settings, *, read_only: bool, end_sessions: bool = True) -> None:
    """Make new sessions of a database read-only or writable, from a session in another database.

    Args:
        settings: the settings with the database URL.
        read_only: True for read-only sessions, False for writable ones.
        end_sessions: also end the open sessions.
    """
    url = urlsplit(settings.postgresql_url)
    name = url.path.removeprefix("/")
    operator = await asyncpg.connect(url._replace(path="/postgres").geturl(), timeout=60)
    try:
        change = "SET default_transaction_read_only = " + ("on" if read_only else "off")
        await operator.execute(f'ALTER DATABASE "{name}" {change}')
        if end_sessions:
            await operator.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = $1 AND backend_type = 'client backend'",
                name,
            )
    finally:
        await operator.close(timeout=10)
