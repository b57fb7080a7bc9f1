"""Who leads: whoever holds the one lease there is, by the database's clock. Each lead is a term.

A leader that stands still cannot know that its term is over. So every statement of the scheduler
begins with `CURRENT_TERM` and does nothing once it is; `of_term` tells that from nothing to do.
Nobody locks the row for that: a leader that stands still would hold up the next one.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from headrace_core.domain.errors import StaleTerm
from headrace_core.store.sql.connection import Connection, Rows


async def take_lead(conn: Connection, *, holder: UUID, lease: timedelta) -> int | None:
    """Begins a new term, if nobody leads.

    Args:
        conn: on which it commits by itself.
        holder: who asks.
        lease: how long the term lasts unless it is renewed.

    Returns:
        The term; None while somebody leads.
    """
    term: int | None = await conn.scalar(_TAKE, {"holder": holder, "lease": lease})
    return term


async def renew_lead(conn: Connection, *, term: int, lease: timedelta) -> None:
    """Lets a term last for another lease from now on.

    Raises:
        StaleTerm: it is over.
    """
    if not (await conn.execute(_RENEW, {"term": term, "lease": lease})).rowcount:
        raise StaleTerm(term)


async def give_up_lead(conn: Connection, *, holder: UUID) -> None:
    """Ends the term of somebody who leads; of others nothing changes."""
    await conn.execute(_GIVE_UP, {"holder": holder})


# Only one who has found nobody touches the row, so that those who stand by write nothing. Of two
# who have, the second one finds the first one's lease when its turn comes.
_TAKE = text("""
    INSERT INTO leadership AS l (term, holder, lease_expire_time)
    SELECT 1, CAST(:holder AS uuid), clock_timestamp() + CAST(:lease AS interval)
    WHERE NOT EXISTS (
        SELECT FROM leadership WHERE singleton AND lease_expire_time > clock_timestamp()
    )
    ON CONFLICT (singleton) DO UPDATE
    SET term = l.term + 1, holder = excluded.holder,
        lease_expire_time = clock_timestamp() + CAST(:lease AS interval)
    WHERE l.holder IS NULL OR l.lease_expire_time <= clock_timestamp()
    RETURNING term
""")

_RENEW = text("""
    UPDATE leadership SET lease_expire_time = clock_timestamp() + CAST(:lease AS interval)
    WHERE singleton AND term = :term AND lease_expire_time > clock_timestamp()
""")

_GIVE_UP = text("""
    UPDATE leadership SET holder = NULL, lease_expire_time = NULL
    WHERE singleton AND holder = :holder
""")

# A row while the term `:term` lasts. It is read once for each statement.
CURRENT_TERM = """current_term AS MATERIALIZED (
        SELECT term FROM leadership
        WHERE singleton AND term = :term AND lease_expire_time > clock_timestamp()
    )"""


def of_term(term: int, rows: Rows) -> Rows:
    """What a statement returned that has a row whenever `current_term` has one.

    Raises:
        StaleTerm: it has none, so the statement has done nothing.
    """
    if not rows:
        raise StaleTerm(term)
    return rows
