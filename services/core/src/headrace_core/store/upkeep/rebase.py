"""The rebase after a restore into another cluster: all events get places of the new cluster.

A place contains a transaction id. A dump keeps the ids, but each cluster assigns its own ids.
Without a rebase, an event would not settle until the new cluster reached its id, and new events
would get places before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text

from headrace_core.store.sql.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class RebaseResult:
    """The number of events, jobs and subscriptions with a new place."""

    events: int
    jobs: int
    subscriptions: int


async def is_foreign(conn: Connection) -> bool:
    """Return whether the database has transaction ids that its cluster has not reached.

    Args:
        conn: a connection whose transaction has written nothing.
    """
    return (await conn.execute(_HAS_FOREIGN_IDS)).one_or_none() is not None


async def rebase(conn: Connection) -> RebaseResult:
    """Move all events before all future events, in the order of their positions.

    The events of each job keep their order, because a position is assigned while the job's row is
    locked. The order of events across jobs can change, so the database gets a new id and a new
    secret, and old cursors are rejected. A subscription continues before its first unacknowledged
    event, and can receive some acknowledged events again. If unread events of a subscription were
    pruned, the subscription still reports their loss.

    Args:
        conn: a connection with a separate transaction. The function locks the tables against
            writes.
    """
    await conn.execute(_LOCK)
    # This statement reads the old places of the events, so it runs first.
    subscriptions = (await conn.execute(_SUBSCRIPTIONS)).rowcount
    await conn.execute(_RESET_STARTS)
    await conn.execute(_SKIP_HISTORY)
    events = (await conn.execute(_EVENTS)).rowcount
    jobs = (await conn.execute(_JOBS)).rowcount
    await conn.execute(_REPLACE_IDENTITY)
    return RebaseResult(events=events, jobs=jobs, subscriptions=subscriptions)


# The first transaction id of any cluster (FirstNormalTransactionId in PostgreSQL's source).
_FIRST_XID = "'3'::xid8"

_HAS_FOREIGN_IDS = text("""
    SELECT 1 FROM (
        (SELECT xid FROM job_events ORDER BY xid DESC LIMIT 1)
        UNION ALL (SELECT start_xid FROM event_log ORDER BY start_xid DESC LIMIT 1)
        UNION ALL (SELECT xid FROM subscriptions ORDER BY xid DESC LIMIT 1)
        UNION ALL (SELECT xid FROM history_place)
    ) newest
    WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())
    LIMIT 1
""")

_LOCK = text("""
    LOCK TABLE jobs, job_events, event_log, subscriptions, history_place, installation
    IN SHARE ROW EXCLUSIVE MODE
""")

_SUBSCRIPTIONS = text(f"""
    UPDATE subscriptions s
    SET (xid, position) = (
        SELECT
            -- Before every start.
            CASE WHEN pruned THEN '0'::xid8 ELSE {_FIRST_XID} END,
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

# After every event: the history can lack events of the last seconds before the dump, but counts
# none of them twice.
_SKIP_HISTORY = text(f"""
    UPDATE history_place
    SET xid = {_FIRST_XID}, position = coalesce((SELECT max(position) FROM job_events), 0)
""")

# Before every event.
_RESET_STARTS = text(f"UPDATE event_log SET start_xid = {_FIRST_XID}, start_position = 0")

_EVENTS = text(f"UPDATE job_events SET xid = {_FIRST_XID}, writer = {_FIRST_XID}")

_JOBS = text(f"UPDATE jobs SET xid = {_FIRST_XID}")

_REPLACE_IDENTITY = text("UPDATE installation SET id = DEFAULT, secret = DEFAULT")
