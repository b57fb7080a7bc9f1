"""After a restore into another cluster: the log is given places that this cluster can go on from.

Places are made of transaction ids, which a dump takes along and another cluster counts anew. Events
with an id that is yet to come would never settle, and new ones would stand before them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text

from headrace_core.store.sql.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebased:
    """How many events, jobs and subscriptions have another place now."""

    events: int
    jobs: int
    subscriptions: int


async def is_foreign(conn: Connection) -> bool:
    """Whether the database has transaction ids that its cluster has not come to yet.

    Args:
        conn: its transaction has written nothing.
    """
    return (await conn.execute(_FOREIGN)).one_or_none() is not None


async def rebase(conn: Connection) -> Rebased:
    """Puts all events below whatever the cluster will write, in the order of their positions.

    That keeps the events of each job in the order of their numbers: a position is drawn while the
    job's row is locked. Among several jobs the order may become another one, so the old cursors are
    refused: the database has a new name and a new secret. Subscriptions go on before the first
    event that they have not acknowledged, and may be sent some that they have; one of which events
    were pruned unread still says so.

    Args:
        conn: a transaction of its own. Nobody writes before it ends.
    """
    await conn.execute(_LOCK)
    # Behind the events' old places, so before these change.
    subscriptions = (await conn.execute(_SUBSCRIPTIONS)).rowcount
    await conn.execute(_STARTS)
    events = (await conn.execute(_EVENTS)).rowcount
    jobs = (await conn.execute(_JOBS)).rowcount
    await conn.execute(_RENAME)
    return Rebased(events=events, jobs=jobs, subscriptions=subscriptions)


# The first id that is ever given to a transaction, long before Headrace's first (PostgreSQL's
# source, FirstNormalTransactionId).
_FIRST = "'3'::xid8"

_FOREIGN = text("""
    SELECT 1 FROM (
        (SELECT xid FROM job_events ORDER BY xid DESC LIMIT 1)
        UNION ALL (SELECT start_xid FROM event_log ORDER BY start_xid DESC LIMIT 1)
        UNION ALL (SELECT xid FROM subscriptions ORDER BY xid DESC LIMIT 1)
    ) newest
    WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())
    LIMIT 1
""")

_LOCK = text("""
    LOCK TABLE jobs, job_events, event_log, subscriptions, installation
    IN SHARE ROW EXCLUSIVE MODE
""")

_SUBSCRIPTIONS = text(f"""
    UPDATE subscriptions s
    SET (xid, position) = (
        SELECT
            -- Before every start.
            CASE WHEN pruned THEN '0'::xid8 ELSE {_FIRST} END,
            CASE WHEN pruned THEN 0 ELSE coalesce(
                (
                    SELECT min(e.position) - 1 FROM job_events e
                    WHERE e.tenant = s.tenant AND (e.xid, e.position) > (s.xid, s.position)
                ),
                (SELECT max(e.position) FROM job_events e),
                0
            ) END
        FROM (
            SELECT EXISTS (
                SELECT FROM event_log l
                WHERE l.tenant = s.tenant
                    AND (l.start_xid, l.start_position) > (s.xid, s.position)
            ) AS pruned
        ) p
    )
""")

# Before every event that is there.
_STARTS = text(f"UPDATE event_log SET start_xid = {_FIRST}, start_position = 0")

_EVENTS = text(f"UPDATE job_events SET xid = {_FIRST}, writer = {_FIRST}")

_JOBS = text(f"UPDATE jobs SET xid = {_FIRST}")

_RENAME = text("UPDATE installation SET id = DEFAULT, secret = DEFAULT")
