"""The term of the leading scheduler, for tests that act as this scheduler."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from headrace_core.store.leadership import take_lead
from headrace_core.store.sql.database import Database

_HOLDER = UUID(int=0)


async def lead(database: Database) -> int:
    """Return the term of the current leader; take the lead if there is none."""
    async with database.statement() as connection:
        term = await take_lead(connection, holder=_HOLDER, lease=timedelta(hours=1))
        if term is None:
            term = await connection.scalar(text("SELECT term FROM leadership"))
    assert term is not None
    return term


async def lose_lead(database: Database) -> None:
    """Set the current leader's lease to lapsed."""
    async with database.statement() as connection:
        lapsed = await connection.execute(
            text("UPDATE leadership SET lease_expire_time = now() - interval '1 ms'")
        )
    assert lapsed.rowcount == 1
