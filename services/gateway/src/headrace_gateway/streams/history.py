"""Reads past events from PostgreSQL, for all streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from headrace_core.store.event_log import EventPage, Place, read_range, read_start
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_gateway.streams.recent import RecentEvents

# The maximum number of events on a page. The store also limits the bytes of a page.
_MAX_PAGE_EVENTS: Final = 500


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

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Open a connection, as soon as fewer than the maximum number of streams read."""
        async with self._readers, self._database.statement() as conn:
            yield conn

    async def read_all(self, *, tenant: str, after: Place, through: Place) -> EventPage:
        """Return a page of the settled events of all jobs after `after` and up to `through`.

        Raises:
            EventsPruned: some events of the tenant may be pruned.
            Unavailable: PostgreSQL cannot be read.
        """
        async with self.reading() as conn:
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
