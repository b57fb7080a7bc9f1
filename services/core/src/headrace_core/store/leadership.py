"""The leading scheduler: the holder of the single lease, by the database's clock.

Each period of leadership is a term. A suspended process cannot know that its term is over. So each
statement of the scheduler begins with `CURRENT_TERM` and changes nothing after the term ends.
`check_term` then raises StaleTerm. These statements do not lock the row, because a suspended leader
would block the next one.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from headrace_core.domain.errors import StaleTerm
from headrace_core.store.sql.connection import Connection, Rows


async def take_lead(conn: Connection, *, holder: UUID, lease: timedelta) -> int | None:
    """Begin a new term, unless a scheduler leads.

    Args:
        conn: a connection without a transaction.
        holder: the scheduler.
        lease: the duration of the term unless it is renewed.

    Returns:
        The term; None if another scheduler leads.
    """
    term: int | None = await conn.scalar(_TAKE_LEAD, {"holder": holder, "lease": lease})
    return term


async def renew_lead(conn: Connection, *, term: int, lease: timedelta) -> None:
    """Renew the lease of a term.

    Raises:
        StaleTerm: the term is over.
    """
    if not (await conn.execute(_RENEW_LEAD, {"term": term, "lease": lease})).rowcount:
        raise StaleTerm(term)


async def give_up_lead(conn: Connection, *, holder: UUID) -> None:
    """End the term of a leader. For any other scheduler this does nothing."""
    await conn.execute(_GIVE_UP_LEAD, {"holder": holder})


# Standby schedulers find a leader and write nothing. If two schedulers find no leader, the second
# one waits for the row that the first one writes, and then finds the new lease.
_TAKE_LEAD = text("""
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

_RENEW_LEAD = text("""
    UPDATE leadership SET lease_expire_time = clock_timestamp() + CAST(:lease AS interval)
    WHERE singleton AND term = :term AND lease_expire_time > clock_timestamp()
""")

_GIVE_UP_LEAD = text("""
    UPDATE leadership SET holder = NULL, lease_expire_time = NULL
    WHERE singleton AND holder = :holder
""")

# The CTE returns one row during the term `:term`, and no row afterwards. Each statement reads it
# once.
CURRENT_TERM = """current_term AS MATERIALIZED (
        SELECT term FROM leadership
        WHERE singleton AND term = :term AND lease_expire_time > clock_timestamp()
    )"""


def check_term(term: int, rows: Rows) -> Rows:
    """Return `rows`, the result of a statement that returns at least one row during its term.

    Raises:
        StaleTerm: the statement returned no row, so the term is over and nothing has changed.
    """
    if not rows:
        raise StaleTerm(term)
    return rows
