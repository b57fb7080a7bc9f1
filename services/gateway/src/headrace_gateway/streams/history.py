"""Reads past events from PostgreSQL, for all streams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.domain.lifecycle import TERMINAL
from headrace_core.store.event_log import EventPage, Place, list_events, read_range, read_start
from headrace_core.store.jobs.read import get_job
from headrace_core.store.sql.database import Database
from headrace_gateway.streams.recent import Recent

# The maximum number of events in a page: of one job, and of all jobs. The store limits their bytes.
_JOB_PAGE: Final = 200
_PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """A page of the events of a job.

    Attributes:
        events: the events, in order.
        complete: True if no event follows.
        ended: True if the job has ended and no event follows.
        last_seq: the number of the last event up to the end of this page.
    """

    events: Sequence[JobEvent]
    complete: bool
    ended: bool
    last_seq: int


class Pruned(Exception):
    """Some requested events may be pruned; events after `start` are not."""

    def __init__(self, start: Place) -> None:
        super().__init__(start)
        self.start = start


class History:
    """Reads past events for all streams of the gateway, over a limited number of connections.

    The limit leaves connections for the tail and the other calls when many streams resume at once.

    Args:
        database: the store of the events.
        readers: the maximum number of streams that read at the same time.
    """

    def __init__(self, *, database: Database, readers: int) -> None:
        self._database = database
        self._readers = asyncio.Semaphore(readers)
        self._recent = Recent()

    async def of_job(self, *, tenant: str, job_id: JobId, after_seq: int) -> JobPage:
        """Return a page of the events of a job with numbers above `after_seq`.

        Raises:
            JobNotFound: the tenant has no such job.
            Unavailable: PostgreSQL cannot be read.
        """
        async with self._readers, self._database.statement() as conn:
            page = await list_events(
                conn, tenant=tenant, job_id=job_id, after_seq=after_seq, limit=_JOB_PAGE
            )
            if page.events:
                last, complete = page.events[-1], page.complete
                ended = complete and last.state in TERMINAL
                return JobPage(
                    events=page.events, complete=complete, ended=ended, last_seq=last.seq
                )
            job = await get_job(conn, tenant=tenant, job_id=job_id, full=False)
            # Newer events may have arrived since; then another page follows.
            complete = job.seq <= after_seq
            return JobPage(
                events=(),
                complete=complete,
                ended=complete and job.state in TERMINAL,
                # The client may have sent a number above the last event of the job.
                last_seq=min(after_seq, job.seq),
            )

    async def of_all(self, *, tenant: str, after: Place, through: Place) -> EventPage:
        """Return a page of the settled events of all jobs after `after` and up to `through`.

        Raises:
            Pruned: some events of the tenant may be pruned.
            Unavailable: PostgreSQL cannot be read.
        """
        async with self._readers, self._database.statement() as conn:
            # Other streams may have read the page while this stream waited.
            page = self._recent.page(after=after, through=through, limit=_PAGE)
            if page is None:
                page = await read_range(conn, after=after, through=through, limit=_PAGE)
                self._recent.add(page, after=after, through=through)
            # Read after the page: pruning moves the start before it removes events.
            start = await read_start(conn, tenant=tenant)
        if after < start:
            raise Pruned(start)
        return page
