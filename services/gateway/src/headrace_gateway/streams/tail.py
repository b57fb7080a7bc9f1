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
    SeenEvents,
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

# The maximum number of events that one run reads.
_MAX_PAGE_EVENTS: Final = 500
# The maximum number of unsettled events in memory; the rest are read from PostgreSQL when they
# settle.
_MAX_UNSETTLED: Final = 10_000

# The assumed cost of a run, in seconds: the minimum, the cost per event, and the maximum. The next
# run starts after that time, so under load each run finds more events.
_MIN_COST: Final = 0.005
_EVENT_COST: Final = 0.0001
_MAX_COST: Final = 0.02
# The maximum unused time, in seconds. It covers the runs for the three events of a short job, which
# arrive in quick succession.
_CREDIT: Final = 0.025


class Pace:
    """Lets a few runs follow each other immediately, and then limits their rate.

    Each run uses up its cost, and unused time accumulates up to `_CREDIT`.
    """

    def __init__(self) -> None:
        # The time up to which the previous runs are paid for.
        self._paid_until = 0.0

    def rest(self, events: int, *, now: float) -> float:
        """Return the pause after a run, in seconds.

        Args:
            events: the number of events that the run found.
            now: seconds of a monotonic clock.
        """
        cost = min(max(_MIN_COST, events * _EVENT_COST), _MAX_COST)
        # The limit keeps each pause at most as long as the cost of one run.
        self._paid_until = min(max(self._paid_until, now), now + _CREDIT) + cost
        return max(0.0, self._paid_until - _CREDIT - now)


class Tail(Loop):
    """Reads the event log and routes each event twice: when it is visible, and when it settles.

    A wake-up only suggests that new events exist. The tail remembers which visible and which
    settled events it has routed, so it misses nothing during a PostgreSQL outage. It repeats events
    only after an interrupted run, and streams skip events that they have already sent.

    Without streams the tail is idle: it only reads the end of the log, where the next stream
    starts.

    Args:
        database: stores the events.
        routes: receives the events.
        gauges: the gauges of the tail.
        timing: the durations of its waits.
        page: the maximum number of events that one run reads.
        window: the maximum number of unsettled events in memory.
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
        page: int = _MAX_PAGE_EVENTS,
        window: int = _MAX_UNSETTLED,
    ) -> None:
        self._database = database
        self._routes = routes
        self._gauges = gauges
        self._timing = timing
        self._page = page
        self._window = Window(max_events=window)
        self._pace = Pace()
        # The number of events that the last run found.
        self._found_events = 0
        self._seen: SeenEvents | None = None
        # Set while the tail reads events.
        self._active = asyncio.Event()
        # The time of the first run without open streams; None while streams are open.
        self._unused_since: float | None = None
        # Set while events are unsettled: the newest transaction at the first run that found an
        # unsettled event, and the time of that run.
        self._unsettled: tuple[int, float] | None = None
        # The oldest open transaction, and the time at which it became the oldest.
        self._delaying: tuple[int, float] | None = None
        # True after the tail has logged that events come from another cluster.
        self._has_logged_origin = False

    @property
    def settled(self) -> Place:
        """The place up to which all events have settled and were routed."""
        return self._window.place

    async def wait_until_ready(self) -> None:
        """Wait until the tail routes all events after `settled`.

        A stream opens its mailbox, calls this, and then reads the past.

        Raises:
            Unavailable: the tail could not read the log in time.
        """
        try:
            async with asyncio.timeout(self._timing.ready):
                await self._active.wait()
        except TimeoutError:
            raise Unavailable("postgresql") from None

    async def run_once(self) -> float:
        """Route newly visible events, and a page of settled ones.

        Returns:
            Seconds until the next run without a wake-up; 0 if there is more to read.

        Raises:
            Unavailable: PostgreSQL cannot be read. The next run reads the same events.
        """
        self._found_events = 0
        async with self._database.statement() as conn:
            if self._seen is None or self._is_idle():
                return self._start_at_end(await read_end(conn))
            reading = await read_unseen(conn, seen=self._seen, limit=self._page)
            snapshot = reading.snapshot
            self._gauges.clock.add_reading(snapshot.clock)
            self._check_origin(snapshot)
            if snapshot.start > self._window.place:
                # Events were pruned before they were routed, because the process was suspended for
                # longer than the retention. Each stream checks whether it needs them.
                return self._restart_at_end(await read_end(conn))
            self._route_visible(reading)
            more = await self._route_settled(conn, reading)
        wait = self._update_gauges(snapshot)
        return 0.0 if more else wait

    def _is_idle(self) -> bool:
        """Return whether no stream has been open for a while."""
        now = asyncio.get_running_loop().time()
        if self._routes:
            self._unused_since = None
            return not self._active.is_set()
        if self._unused_since is None:
            self._unused_since = now
        if now - self._unused_since > self._timing.linger:
            self._active.clear()
        return not self._active.is_set()

    def _start_at_end(self, end: LogEnd) -> float:
        """Start at the end of the log; return the seconds until the next run without a wake-up."""
        self._gauges.clock.add_reading(end.snapshot.clock)
        self._check_origin(end.snapshot)
        self._seen = end.seen
        self._window.start(end.settled, through=end.seen.top[0])
        # Streams already have open mailboxes, and read the past after this.
        if self._routes:
            self._active.set()
        return self._update_gauges(end.snapshot)

    def _restart_at_end(self, end: LogEnd) -> float:
        """Start at the end of the log again; streams read the skipped events from PostgreSQL."""
        wait = self._start_at_end(end)
        self._routes.overflow()
        return wait

    def _route_visible(self, reading: Reading) -> None:
        events = reading.page.events
        self._routes.route_visible(events)
        self._window.add(events)
        self._seen = reading.seen
        self._found_events = len(events)
        self._gauges.events += len(events)

    async def _route_settled(self, conn: Connection, reading: Reading) -> bool:
        """Route a page of settled events; return whether there is more to read or to route."""
        window, horizon = self._window, reading.snapshot.horizon
        if missing := window.missing_through:
            last = min(missing, horizon - 1)
            page = await read_range(
                conn, after=window.place, through=end_of(last), limit=self._page
            )
            # Read after the page, because events may have been pruned since the run started.
            end = await read_end(conn)
            if end.snapshot.start > window.place:
                self._restart_at_end(end)
                return True
            # No await between these two calls, because streams compare routed events with the
            # tail's place.
            self._routes.route_settled(page.events)
            window.move(page.end, found_all=page.complete and last == missing)
            return not (reading.page.complete and page.complete) or window.has_settled(horizon)
        # The next page of visible events may have earlier places than events in the window.
        through = None if reading.page.complete else reading.page.end
        self._routes.route_settled(window.take(horizon, self._page, through=through))
        return not reading.page.complete or window.has_settled(horizon)

    def _check_origin(self, snapshot: Snapshot) -> None:
        """Log once if the events come from another cluster, because they would never settle."""
        newest = max(self._window.place[0], 0 if self._seen is None else self._seen.top[0])
        if newest < snapshot.next or self._has_logged_origin:
            return
        self._has_logged_origin = True
        _log.error(
            "database_of_another_cluster",
            newest_xid=newest,
            next_xid=snapshot.next,
            advice="the database was restored from a dump: stop all Headrace services, run "
            "`python -m headrace_core migrate` and start them again",
        )

    def _update_gauges(self, snapshot: Snapshot) -> float:
        """Update the gauges; return the seconds until the next run without a wake-up."""
        assert self._seen is not None
        now = asyncio.get_running_loop().time()
        if self._unsettled is not None and snapshot.horizon > self._unsettled[0]:
            self._unsettled = None
        top = self._seen.top[0]
        if self._unsettled is None and top >= snapshot.horizon:
            self._unsettled = (top, now)
        if snapshot.horizon == snapshot.next:
            self._delaying = None
        elif self._delaying is None or self._delaying[0] != snapshot.horizon:
            self._delaying = (snapshot.horizon, now)
        gauges = self._gauges
        gauges.runs += 1
        gauges.last_run = now
        gauges.delayed_since = None if self._delaying is None else self._delaying[1]
        gauges.unsettled_since = None if self._unsettled is None else self._unsettled[1]
        if self._unsettled is None:
            return random.uniform(*self._timing.interval)
        low, high = self._timing.unsettled
        return min(max(now - self._unsettled[1], low), high)

    def on_failure(self) -> None:
        """Count the failure."""
        self._gauges.failures += 1

    def on_outage(self) -> None:
        """End the streams, so that their clients try other gateways."""
        self._routes.fail(Unavailable("postgresql"))

    async def rest(self, wake: Wake, seconds: float) -> None:
        """Pause as `Pace` requires, then wait for events, or for a stream while idle."""
        rest = self._pace.rest(self._found_events, now=asyncio.get_running_loop().time())
        # If there is more to read, first let the streams take the routed events.
        await asyncio.sleep(rest if seconds else 0)
        if seconds and self._active.is_set():
            await wake.sleep(seconds)
        elif seconds:
            await self._routes.wait(seconds)
