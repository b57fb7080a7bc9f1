"""The tail: reads each event once, for all streams of the gateway."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.loop import Loop, Wake
from headrace_core.store.event_log import (
    LogEnd,
    Place,
    Reading,
    Seen,
    Snapshot,
    end_of,
    read_end,
    read_range,
    read_unseen,
)
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.routing import Routes
from headrace_gateway.streams.timing import DEFAULT, Timing
from headrace_gateway.streams.window import Window

_log = structlog.get_logger()

# Events that one run reads.
_PAGE: Final = 500
# Events that wait in memory for an open transaction; PostgreSQL keeps the others.
_WINDOW: Final = 10_000

# The price of a run, in seconds. The next run is due after that time. A run that found many events
# costs more, so that under load a run finds more.
_RUN: Final = 0.005
_EVENT: Final = 0.0001
_DEAREST: Final = 0.02
# Credit for runs, in seconds: the three events of a short job follow each other at once.
_CREDIT: Final = 0.025


class Pace:
    """Lets a few runs follow each other at once, and then limits their rate.

    Each run costs time, and unused time is saved up to a limit.
    """

    def __init__(self) -> None:
        # The time up to which the runs so far are paid.
        self._paid = 0.0

    def rest(self, events: int, *, now: float) -> float:
        """Return the rest after a run, in seconds.

        Args:
            events: how many the run found.
            now: seconds of a monotonic clock.
        """
        cost = min(max(_RUN, events * _EVENT), _DEAREST)
        # After any number of pages, a rest is no longer than the price of one run.
        self._paid = min(max(self._paid, now), now + _CREDIT) + cost
        return max(0.0, self._paid - _CREDIT - now)


class Tail(Loop):
    """Reads the event log and routes it twice: when events are visible, and when they settle.

    A wake-up is a hint that there are events. The tail knows its place in both views, so it loses
    nothing during an outage of PostgreSQL. It repeats events only after a run that was cut off, and
    streams know which events they have sent.

    Without streams the tail is idle: it only reads where the log ends, and the next stream begins
    there.

    Args:
        database: the store of the events.
        routes: receives the events.
        gauges: receives the numbers of the tail.
        timing: of its waits.
        page: events that one run reads.
        window: unsettled events that it keeps in memory.
    """

    name = "tail"
    topics = (Topic.EVENTS,)

    def __init__(
        self,
        *,
        database: Database,
        routes: Routes,
        gauges: Gauges,
        timing: Timing = DEFAULT,
        page: int = _PAGE,
        window: int = _WINDOW,
    ) -> None:
        self._database = database
        self._routes = routes
        self._gauges = gauges
        self._timing = timing
        self._page = page
        self._window = Window(room=window)
        self._pace = Pace()
        # Events of the last run.
        self._found = 0
        self._seen: Seen | None = None
        # Whether the tail reads events, and since when it has no streams.
        self._begun = asyncio.Event()
        self._deserted: float | None = None
        # The newest event at the last time without a lag, and that time.
        self._behind: tuple[int, float] | None = None
        # The oldest open transaction, and since when it is the oldest.
        self._held: tuple[int, float] | None = None
        # Whether it has logged events of another cluster.
        self._logged_origin = False

    @property
    def settled(self) -> Place:
        """The place up to which all events have settled and were routed."""
        return self._window.place

    async def ready(self) -> None:
        """Return once the tail routes all events after `settled`.

        A stream opens its mailbox, calls this, and then reads the past.

        Raises:
            Unavailable: the tail could not read the log in time.
        """
        try:
            async with asyncio.timeout(self._timing.ready):
                await self._begun.wait()
        except TimeoutError:
            raise Unavailable("postgresql") from None

    async def run_once(self) -> float:
        """Route events that have become visible, and a page of those that have settled.

        Returns:
            Seconds until the next run without a wake-up; 0 if there is more to read.

        Raises:
            Unavailable: PostgreSQL cannot be read. Nothing is lost.
        """
        self._found = 0
        async with self._database.statement() as conn:
            if self._seen is None or self._is_idle():
                return self._begin(await read_end(conn))
            reading = await read_unseen(conn, seen=self._seen, limit=self._page)
            snapshot = reading.snapshot
            self._gauges.clock.set(snapshot.clock)
            self._check_origin(snapshot)
            if snapshot.start > self._window.place:
                # Events were pruned that were not routed, after a suspension longer than the
                # retention. Each stream checks whether it needs them.
                return self._begin_anew(await read_end(conn))
            self._show(reading)
            more = await self._settle(conn, reading)
        wait = self._measure(snapshot)
        return 0.0 if more else wait

    def _is_idle(self) -> bool:
        """Whether there have been no streams for a while."""
        now = asyncio.get_running_loop().time()
        if self._routes:
            self._deserted = None
            return not self._begun.is_set()
        if self._deserted is None:
            self._deserted = now
        if now - self._deserted > self._timing.linger:
            self._begun.clear()
        return not self._begun.is_set()

    def _begin(self, end: LogEnd) -> float:
        """Begin at the end of the log."""
        self._gauges.clock.set(end.snapshot.clock)
        self._check_origin(end.snapshot)
        self._seen = end.seen
        self._window.begin(end.settled, through=end.seen.top[0])
        # New streams have open mailboxes, and read the past from now on.
        if self._routes:
            self._begun.set()
        return self._measure(end.snapshot)

    def _begin_anew(self, end: LogEnd) -> float:
        """Begin at the end of the log; the streams read the skipped events from PostgreSQL."""
        wait = self._begin(end)
        self._routes.overflow()
        return wait

    def _show(self, reading: Reading) -> None:
        events = reading.page.events
        self._routes.show(events)
        self._window.add(events)
        self._seen = reading.seen
        self._found = len(events)
        self._gauges.events += len(events)

    async def _settle(self, conn: Connection, reading: Reading) -> bool:
        """Route a page of settled events; return whether there is more to read or to route."""
        window, horizon = self._window, reading.snapshot.horizon
        if missing := window.missing_through:
            last = min(missing, horizon - 1)
            page = await read_range(
                conn, after=window.place, through=end_of(last), limit=self._page
            )
            # Read after the page, because events may have been pruned since the run began.
            end = await read_end(conn)
            if end.snapshot.start > window.place:
                self._begin_anew(end)
                return True
            # No await between the two: streams compare routed events with the place.
            self._routes.settle(page.events)
            window.move(page.end, found_all=page.complete and last == missing)
            return not (reading.page.complete and page.complete) or window.has_settled(horizon)
        # The next page of visible events may belong before the ones in the window.
        through = None if reading.page.complete else reading.page.end
        self._routes.settle(window.take(horizon, self._page, through=through))
        return not reading.page.complete or window.has_settled(horizon)

    def _check_origin(self, snapshot: Snapshot) -> None:
        """Log events of another cluster once: they would never settle."""
        newest = max(self._window.place[0], 0 if self._seen is None else self._seen.top[0])
        if newest < snapshot.next or self._logged_origin:
            return
        self._logged_origin = True
        _log.error(
            "database_of_another_cluster",
            newest_xid=newest,
            next_xid=snapshot.next,
            advice="the database was restored from a dump: stop all services of Headrace, run "
            "`python -m headrace_core migrate` and start them again",
        )

    def _measure(self, snapshot: Snapshot) -> float:
        assert self._seen is not None
        now = asyncio.get_running_loop().time()
        if self._behind is not None and snapshot.horizon > self._behind[0]:
            self._behind = None
        top = self._seen.top[0]
        if self._behind is None and top >= snapshot.horizon:
            self._behind = (top, now)
        if snapshot.horizon == snapshot.next:
            self._held = None
        elif self._held is None or self._held[0] != snapshot.horizon:
            self._held = (snapshot.horizon, now)
        gauges = self._gauges
        gauges.looks += 1
        gauges.last_look = now
        gauges.held_since = None if self._held is None else self._held[1]
        gauges.waiting_since = None if self._behind is None else self._behind[1]
        if self._behind is None:
            return random.uniform(*self._timing.interval)
        low, high = self._timing.unsettled
        return min(max(now - self._behind[1], low), high)

    def on_failure(self) -> None:
        """Count the failure."""
        self._gauges.failures += 1

    def on_outage(self) -> None:
        """End the streams, so that their clients try other gateways."""
        self._routes.fail(Unavailable("postgresql"))

    async def rest(self, wake: Wake, seconds: float) -> None:
        """Rest as the pace demands, then wait for events, or for a stream while idle."""
        rest = self._pace.rest(self._found, now=asyncio.get_running_loop().time())
        # If there is more to read, the streams take what was routed first.
        await asyncio.sleep(rest if seconds else 0)
        if seconds and self._begun.is_set():
            await wake.sleep(seconds)
        elif seconds:
            await self._routes.wait(seconds)
