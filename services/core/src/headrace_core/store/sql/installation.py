"""The id and the secret of this database."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from headrace_core.store.sql.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The database's id, and the secret (32 bytes) that signs page tokens and cursors."""

    id: UUID
    secret: bytes

    def __repr__(self) -> str:
        return f"Installation(id={self.id})"


async def read_installation_id(conn: Connection) -> UUID:
    """Read the id, for services that may not read the secret."""
    row = (await conn.execute(text("SELECT id FROM installation"))).one()
    installation_id: UUID = row.id
    return installation_id


async def read_installation(conn: Connection) -> Installation:
    """Read the only row of the table `installation`."""
    row = (await conn.execute(text("SELECT id, secret FROM installation"))).one()
    return Installation(id=row.id, secret=bytes(row.secret))
