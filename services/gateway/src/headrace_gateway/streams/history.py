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
from headrace_gateway.streams.recent import RecentEvents

# The maximum number of events on a page, for one job and for all jobs. The store also limits the
# bytes of a page.
_MAX_JOB_PAGE_EVENTS: Final = 200
_MAX_PAGE_EVENTS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """A page of a job's events.

    Attributes:
        events: the events, in order.
        complete: True if no event follows.
        ended: True if the job has ended and no event follows.
        last_seq: the number of the last event on this page, or before it if the page is empty.
    """

    events: Sequence[JobEvent]
    complete: bool
    ended: bool
    last_seq: int


class EventsPruned(Exception):
    """Some requested events may be pruned; events after `start` are not."""

    def __init__(self, start: Place) -> None:
        super().__init__(start)
        self.start = start


class History:
    """Reads past events for all streams of the gateway, over a limited number of connections.

    The limit keeps connections free for the tail and for calls when many streams resume at once.

    Args:
        database: stores the events.
        readers: the maximum number of streams that read at the same time.
    """

    def __init__(self, *, database: Database, readers: int) -> None:
        self._database = database
        self._readers = asyncio.Semaphore(readers)
        self._recent = RecentEvents()

    async def read_job(self, *, tenant: str, job_id: JobId, after_seq: int) -> JobPage:
        """Return a page of a job's events with numbers above `after_seq`.

        Raises:
            JobNotFound: the tenant has no such job.
            Unavailable: PostgreSQL cannot be read.
        """
        async with self._readers, self._database.statement() as conn:
            page = await list_events(
                conn, tenant=tenant, job_id=job_id, after_seq=after_seq, limit=_MAX_JOB_PAGE_EVENTS
            )
            if page.events:
                last, complete = page.events[-1], page.complete
                ended = complete and last.state in TERMINAL
                return JobPage(
                    events=page.events, complete=complete, ended=ended, last_seq=last.seq
                )
            job = await get_job(conn, tenant=tenant, job_id=job_id, full=False)
            # Newer events may have been written since; then another page follows.
            complete = job.seq <= after_seq
            return JobPage(
                events=(),
                complete=complete,
                ended=complete and job.state in TERMINAL,
                # The client may have sent a number above the job's last event.
                last_seq=min(after_seq, job.seq),
            )

    async def read_all(self, *, tenant: str, after: Place, through: Place) -> EventPage:
        """Return a page of the settled events of all jobs after `after` and up to `through`.

        Raises:
            EventsPruned: some events of the tenant may be pruned.
            Unavailable: PostgreSQL cannot be read.
        """
        async with self._readers, self._database.statement() as conn:
            # Another stream may have read the page while this stream waited.
            page = self._recent.page(after=after, through=through, limit=_MAX_PAGE_EVENTS)
            if page is None:
                page = await read_range(conn, after=after, through=through, limit=_MAX_PAGE_EVENTS)
                self._recent.add(page, after=after, through=through)
            # Read the start after the page: pruning moves the start before it removes events.
            start = await read_start(conn, tenant=tenant)
        if after < start:
            raise EventsPruned(start)
        return page
