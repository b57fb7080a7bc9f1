"""SQL for lanes: the waiting jobs with the same tenant, queue and type."""

from __future__ import annotations

from typing import Final

from headrace_core.domain.lifecycle import EventType
from headrace_core.store.sql.guards import TAKING_WORKER
from headrace_core.store.sql.transition import source_guard

# For WITH RECURSIVE: steps from lane to lane of the index on queued jobs.
LANES: Final = f"""lane AS (
        (SELECT tenant, queue, type FROM jobs j WHERE {source_guard(EventType.STARTED)}
            ORDER BY tenant, queue, type LIMIT 1)
        UNION ALL
        SELECT n.* FROM lane l CROSS JOIN LATERAL (
            SELECT j.tenant, j.queue, j.type FROM jobs j
            WHERE {source_guard(EventType.STARTED)}
                AND (j.tenant, j.queue, j.type) > (l.tenant, l.queue, l.type)
            ORDER BY j.tenant, j.queue, j.type LIMIT 1
        ) n
    )"""

# The condition that handler `h` of worker `w` takes jobs of lane `l`.
SERVES_LANE: Final = f"""h.tenant = l.tenant AND h.type = l.type AND {TAKING_WORKER}
            AND (w.queues = '{{}}' OR l.queue = ANY (w.queues))"""


def head_of(lane: str) -> str:
    """Return WHERE … ORDER BY for the waiting jobs `j` of a lane, in order.

    The condition is a range of the index. For an equality, a planner without statistics expects a
    single row and may read and sort all jobs of the tenant.
    """
    return f"""WHERE {source_guard(EventType.STARTED)}
                AND (j.tenant, j.queue, j.type, j.rank)
                    >= ({lane}.tenant, {lane}.queue, {lane}.type, '-infinity'::double precision)
                AND (j.tenant, j.queue, j.type, j.rank)
                    <= ({lane}.tenant, {lane}.queue, {lane}.type, 'infinity'::double precision)
            ORDER BY j.tenant, j.queue, j.type, j.rank, j.id"""
