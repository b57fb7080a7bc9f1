"""Pieces of SQL that stand in more than one statement, all derived from the lifecycle.

How a transition locks its job's row: what a worker or a client writes of its own takes FOR NO KEY
UPDATE, and what may lead to another attempt (promote, claim, take back, expire, prune) FOR UPDATE
SKIP LOCKED. So the FOR KEY SHARE of `headrace.check_fence` holds off the latter and nothing else.
"""

from __future__ import annotations

from headrace_core.domain.lifecycle import TERMINAL, EventType, sources
from headrace_core.store.sql.tables import in_list

TERMINAL_LIST = in_list(sorted(TERMINAL))


def source_guard(event: EventType, table: str = "j") -> str:
    """The condition under which `event` may happen to a row of jobs."""
    return f"{table}.state IN ({in_list(sources(event))})"


def keyed_guard(event: EventType, table: str = "j") -> str:
    """As `source_guard`, for rows that are found by their keys.

    The planner cannot tell which states it names, and so does not walk the partial index of one: a
    plan that was made when there were few such jobs would take longer with each of them.
    """
    states = in_list(sources(event))
    return f"{table}.state = ANY (ARRAY(SELECT unnest(ARRAY[{states}])))"


# What every transition sets `xid` of its job to, and gives to its event: so, in the order of the
# places of all events, those of a job stand in the order of their numbers.
EVENT_XID = "greatest(j.xid, pg_current_xact_id())"

LIVE_WORKER = "w.lease_expire_time > clock_timestamp()"

# Alive, and not about to go: it takes jobs.
TAKING_WORKER = f"NOT w.draining AND {LIVE_WORKER}"
