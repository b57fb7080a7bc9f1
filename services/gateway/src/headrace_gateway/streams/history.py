"""The past of streams, read from PostgreSQL."""

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

# How many events of a job, and of all jobs, are read at once. The store bounds their bytes.
_JOB_PAGE: Final = 200
_PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Some events of a job.

    `complete`: there was nothing behind them. `ended`: and the job had ended. `last_seq` is the
    number of the last event up to this page.
    """

    events: Sequence[JobEvent]
    complete: bool
    ended: bool
    last_seq: int


class Pruned(Exception):
    """Events that were asked for may be gone. All behind `start` are there."""

    def __init__(self, start: Place) -> None:
        super().__init__(start)
        self.start = start


class History:
    """Reads the past for all streams of the gateway, over a few connections at a time.

    However many streams come back at once, the tail and the other calls find a connection.

    Args:
        database: where the events are.
        readers: how many streams read at the same time.
    """

    def __init__(self, *, database: Database, readers: int) -> None:
        self._database = database
        self._readers = asyncio.Semaphore(readers)
        self._recent = Recent()

    async def of_job(self, *, tenant: str, job_id: JobId, after_seq: int) -> JobPage:
        """The events of a job with numbers above `after_seq`, as many as make a page.

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
            # An event may have come since; then there is another page.
            complete = job.seq <= after_seq
            return JobPage(
                events=(),
                complete=complete,
                ended=complete and job.state in TERMINAL,
                # Nobody has seen more than there is.
                last_seq=min(after_seq, job.seq),
            )

    async def of_all(self, *, tenant: str, after: Place, through: Place) -> EventPage:
        """Settled events of all jobs behind `after` and up to `through`, as many as make a page.

        Raises:
            Pruned: there may have been more of the tenant's.
            Unavailable: PostgreSQL cannot be read.
        """
        async with self._readers, self._database.statement() as conn:
            # Others may have read it while this one waited for its turn.
            page = self._recent.page(after=after, through=through, limit=_PAGE)
            if page is None:
                page = await read_range(conn, after=after, through=through, limit=_PAGE)
                self._recent.add(page, after=after, through=through)
            # Behind the page: what was pruned before it was read has moved the start already.
            start = await read_start(conn, tenant=tenant)
        if after < start:
            raise Pruned(start)
        return page
