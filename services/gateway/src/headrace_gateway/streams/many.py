"""A stream of many jobs' events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from headrace_core.domain.errors import CursorExpired, HeadraceError
from headrace_core.domain.job import JobEvent
from headrace_core.domain.query import JobFilter
from headrace_core.store.event_log import BEGINNING, Place, place_of
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.history import EventsPruned, History
from headrace_gateway.streams.messages import MAX_EVENTS, next_mark, pack
from headrace_gateway.streams.routing import Mailbox, Predicate, Routes
from headrace_gateway.streams.tail import Tail
from headrace_gateway.streams.timing import DEFAULT


class Mark(Enum):
    """The kind of a page."""

    # Only events.
    EVENTS = auto()
    # All earlier events have been sent.
    CAUGHT_UP = auto()
    # No event matched for a while.
    IDLE = auto()
    # Another watch receives the subscription. The page has no cursor.
    STANDBY = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchPage:
    """Events or a mark, and the cursor after them."""

    events: Sequence[JobEvent]
    cursor: str
    mark: Mark


class FilterStream:
    """Follows jobs that match a filter: the past from PostgreSQL, then events that the tail routes.

    Both sources supply settled events in the order of their places. They meet at the place that the
    tail had reached when the mailbox was opened: earlier events are read from PostgreSQL, and later
    events arrive in the mailbox. After a mailbox overflow, the sources meet at a later place.

    Args:
        tenant: the tenant of the jobs.
        job_filter: selects the jobs.
        after: the place of the cursor; None to start now.
        write_cursor: returns the cursor of a place.
        tail: fills the mailbox, and knows the settled place of the log.
        routes: opens the mailbox.
        history: reads the past.
        gauges: counts catch-ups.
        idle: longest time without a message, in seconds.
        progress: time between two marks while the stream reads the past, in seconds.
    """

    def __init__(
        self,
        *,
        tenant: str,
        job_filter: JobFilter,
        after: Place | None,
        write_cursor: Callable[[Place], str],
        tail: Tail,
        routes: Routes,
        history: History,
        gauges: Gauges,
        idle: float,
        progress: float = DEFAULT.progress,
    ) -> None:
        self._tenant = tenant
        self._job_filter = job_filter
        self._after = after
        self._write_cursor = write_cursor
        self._tail = tail
        self._routes = routes
        self._history = history
        self._gauges = gauges
        self._idle = idle
        self._progress = progress
        self._clock = asyncio.get_running_loop().time
        # All events up to this place were sent or do not match.
        self._place: Place = BEGINNING
        # The place of the last cursor that was sent.
        self._cursor_place: Place = BEGINNING
        # The place where the past ends and the events in the mailbox follow.
        self._meeting_place: Place = BEGINNING
        self._mark_due = 0.0
        self._live = False
        self._caught_up = False
        self._error: HeadraceError | None = None
        self._mailbox: Mailbox | None = None

    def fail(self, error: HeadraceError) -> None:
        """End the stream with an error at its next wait."""
        self._error = error
        if self._mailbox is not None:
            self._mailbox.fail(error)

    async def run(self) -> AsyncGenerator[WatchPage, None]:
        """Yield pages to send, until an error.

        If the stream has skipped events since the last page, a final page has the cursor after
        them.

        Raises:
            CursorExpired: events after the cursor were pruned.
            Unavailable: the past cannot be read.
            ShuttingDown: the gateway is shutting down.
        """
        with self._routes.open_for_filter(self._tenant, self._job_filter) as (mailbox, matches):
            self._mailbox = mailbox
            if self._error is not None:
                mailbox.fail(self._error)
            await self._tail.wait_until_ready()
            self._meeting_place = self._tail.settled
            self._place = self._cursor_place = (
                self._meeting_place if self._after is None else self._after
            )
            self._mark_due = self._next_mark()
            if self._after is not None:
                self._gauges.resumes += 1
            try:
                while True:
                    live = self._live
                    step = self._take_routed(mailbox) if live else self._read_past(mailbox, matches)
                    for page in await step:
                        mailbox.oldest_sending = self._gauges.send_due_time(
                            page.events if live else ()
                        )
                        yield page
                        mailbox.oldest_sending = None
                        if live:
                            self._gauges.count_sent(page.events)
            except HeadraceError:
                if self._live:
                    self._place = max(self._place, self._covered_place(mailbox))
                if self._place > self._cursor_place:
                    yield self._page(Mark.IDLE)
                raise

    async def _read_past(self, mailbox: Mailbox, matches: Predicate) -> Sequence[WatchPage]:
        """Return pages of the past up to the meeting place."""
        mailbox.check()
        events: list[JobEvent] = []
        covered = self._meeting_place
        if self._place < self._meeting_place:
            try:
                page = await self._history.read_all(
                    tenant=self._tenant, after=self._place, through=self._meeting_place
                )
            except EventsPruned as pruned:
                self._gauges.cursors_expired += 1
                raise CursorExpired(self._write_cursor(pruned.start)) from None
            events = [event for event in page.events if matches(event)]
            if not page.complete and page.end is not None:
                covered = page.end
        self._live = covered >= self._meeting_place
        if self._live:
            mailbox.oldest_dropped = None
        return self._pages(events, covered)

    async def _take_routed(self, mailbox: Mailbox) -> Sequence[WatchPage]:
        """Return pages of routed events; none after an overflow."""
        await mailbox.wait(max(0.0, self._mark_due - self._clock()))
        events = mailbox.take(MAX_EVENTS)
        if events and place_of(events[0]) <= self._place:
            events = [event for event in events if place_of(event) > self._place]
        if mailbox.overflowed:
            self._gauges.catch_ups += 1
            self._live = False
            mailbox.reopen()
            self._meeting_place = self._tail.settled
            return ()
        return self._pages(events, self._covered_place(mailbox))

    def _covered_place(self, mailbox: Mailbox) -> Place:
        """Return the place up to which a live stream has taken all matching events."""
        # If the mailbox is empty, no further event that the tail has routed matches.
        nothing_left = not mailbox and not mailbox.overflowed
        return self._tail.settled if nothing_left else self._place

    def _pages(self, events: Iterable[JobEvent], covered: Place) -> Sequence[WatchPage]:
        """Return pages of events, and a mark if one is due.

        Args:
            events: the events to send.
            covered: the place up to which all events are in `events`, were sent or do not match.
        """
        packs = list(pack(events))
        pages = []
        for packed in packs:
            self._place = place_of(packed[-1])
            if packed is packs[-1]:
                self._place = max(self._place, covered)
            pages.append(self._page(Mark.EVENTS, packed))
        self._place = max(self._place, covered)
        if self._live and not self._caught_up:
            self._caught_up = True
            pages.append(self._page(Mark.CAUGHT_UP))
        elif self._clock() >= self._mark_due:
            pages.append(self._page(Mark.IDLE))
        return pages

    def _page(self, mark: Mark, events: Sequence[JobEvent] = ()) -> WatchPage:
        self._cursor_place = self._place
        self._mark_due = self._next_mark()
        return WatchPage(events=events, cursor=self._write_cursor(self._place), mark=mark)

    def _next_mark(self) -> float:
        """Return the time at which a mark is due if nothing is sent."""
        if not self._live:
            return self._clock() + self._progress
        return next_mark(self._clock(), self._idle)
