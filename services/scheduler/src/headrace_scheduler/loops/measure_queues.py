"""Measure the depth of the queues."""

from __future__ import annotations

import time
from typing import Final

from headrace_core.runtime.loop import Loop
from headrace_core.store.jobs.depths import queue_depths
from headrace_core.store.sql.database import Database
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.timing import DEFAULT, Timing

# The maximum number of queues with metrics of their own.
MAX_QUEUES: Final = 100
# Time limit of the measurement, in seconds.
_TIMEOUT_S: Final = 60.0
# A measurement takes at most this share of the time.
_SHARE: Final = 0.02


class MeasureQueues(Loop):
    """Report the depth of each queue and the age of its oldest job as metrics.

    Args:
        database: the store.
        gauges: receives the depths.
        timing: the interval of the loop.
    """

    name = "measure_queues"

    def __init__(self, *, database: Database, gauges: Gauges, timing: Timing = DEFAULT) -> None:
        self._database = database
        self._gauges = gauges
        self._timing = timing

    async def run_once(self) -> float:
        """Measure; return the seconds until the next run."""
        start = time.monotonic()
        async with self._database.snapshot(statement_timeout=_TIMEOUT_S) as connection:
            self._gauges.queues = await queue_depths(connection, limit=MAX_QUEUES)
        return max(self._timing.queues, (time.monotonic() - start) / _SHARE)
