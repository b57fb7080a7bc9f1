"""The tail: reads each event once, for all streams of the gateway."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.event_log import (
    LogEnd,
    Look,
    Place,
    Seen,
    Snapshot,
    end_of,
    read_end,
    read_range,
    read_unseen,
)
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.wake import WakeSubscription
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.routing import Routes
from headrace_gateway.streams.window import Window

# What a look costs, in seconds of its own time: so long after it the next one is due, and longer
# when it has found much, so that under load a look finds more.
_LOOK: Final = 0.005
_EVENT: Final = 0.0001
_LONGEST: Final = 0.02
# How far looks may be ahead of that: a job of which nothing is known but that it waits comes to its
# end in three looks, each of them at once.
_AHEAD: Final = 0.025


class Pace:
    """Lets looks follow each other at once for a while, and then no more often than they may.

    Looks are paid for with time: what has been saved up allows a few quick ones.
    """

    def __init__(self) -> None:
        # Until when the looks so far are to last.
        self._paid = 0.0

    def rest(self, events: int, *, now: float) -> float:
        """How many seconds to rest after a look.

        Args:
            events: how many it has found.
            now: by a clock that only goes forward, in seconds.
        """
        cost = min(max(_LOOK, events * _EVENT), _LONGEST)
        # However many pages of a backlog went before: no rest is longer than one look is worth.
        self._paid = min(max(self._paid, now), now + _AHEAD) + cost
        return max(0.0, self._paid - _AHEAD - now)


_log = structlog.get_logger()

# How many events are read at once.
_PAGE: Final = 500
# How many events wait for an open transaction before they are left to PostgreSQL.
_WINDOW: Final = 10_000

# Seconds between two looks without a wake-up.
_INTERVAL: Final = (0.7, 1.0)
# The same while events wait for a transaction, which may ring nobody when it ends: as long as they
# have waited by now, within these bounds.
_SETTLE: Final = (0.01, 0.7)

# Seconds between two attempts while PostgreSQL is gone, and how long its streams stay. Then they
# are sent to another gateway, which may see more than this one.
_RETRY: Final = (0.1, 0.4)
_PATIENCE: Final = 10.0

# How long a stream waits until an idle tail has begun, in seconds; and how long that one still
# reads on once nobody follows anything, since often somebody else comes.
_READY: Final = 5.0
_LINGER: Final = 5.0


class Tail:
    """Reads the log and hands it over in two views: as it becomes visible, and as it settles.

    A wake-up only says that there is something to see. The tail knows what it has seen and how far
    it has settled, so it loses nothing while PostgreSQL is away, and it hands over nothing twice
    unless a look is cut off in the middle; streams know what they have sent.

    While there are no streams it rests: once a second it sees where the log ends, and with the next
    stream it begins there.

    Args:
        database: where the events are.
        wake: for new events.
        routes: gets the events.
        gauges: told about the reading.
        page: how many events are read at once.
        window: how many events may wait to settle in memory.
    """

    def __init__(
        self,
        *,
        database: Database,
        wake: WakeSubscription,
        routes: Routes,
        gauges: Gauges,
        page: int = _PAGE,
        window: int = _WINDOW,
    ) -> None:
        self._database = database
        self._wake = wake
        self._routes = routes
        self._gauges = gauges
        self._page = page
        self._window = Window(room=window)
        self._pace = Pace()
        # How many events the last look has found.
        self._found = 0
        self._seen: Seen | None = None
        # Whether it reads on, and since when there is no stream to read for.
        self._begun = asyncio.Event()
        self._deserted: float | None = None
        # The newest event when the lag was last 0, and when that was.
        self._behind: tuple[int, float] | None = None
        # The oldest transaction that is open, and since when it has been the oldest.
        self._held: tuple[int, float] | None = None
        # Whether it has told of events of another cluster.
        self._told = False
        self._task: asyncio.Task[None] | None = None

    @property
    def settled(self) -> Place:
        """Every event up to here has settled and was handed over."""
        return self._window.place

    async def start(self) -> None:
        """Begins to read, in the background."""
        self._task = asyncio.create_task(self._run(), name="tail")

    async def stop(self) -> None:
        """Stops reading."""
        task, self._task = self._task, None
        if task is not None:
            await end_tasks(task)

    async def ready(self) -> None:
        """Returns once it hands over what comes behind `settled`.

        To be asked by a stream whose mailbox is up, and which reads its past afterwards.

        Raises:
            Unavailable: it does not, after some seconds.
        """
        try:
            async with asyncio.timeout(_READY):
                await self._begun.wait()
        except TimeoutError:
            raise Unavailable("postgresql") from None

    async def run_once(self) -> float:
        """Looks: hands over what has become visible, and a page of what has settled.

        Returns:
            After how many seconds it should look again, rung or not.

        Raises:
            Unavailable: PostgreSQL cannot be read. Nothing is lost.
        """
        self._found = 0
        async with self._database.statement() as conn:
            if self._seen is None or self._is_idle():
                return self._begin(await read_end(conn))
            look = await read_unseen(conn, seen=self._seen, limit=self._page)
            snapshot = look.snapshot
            self._gauges.clock.set(snapshot.clock)
            self._check_origin(snapshot)
            if snapshot.start > self._window.place:
                # After a sleep that was longer than events are kept, some were pruned that were not
                # handed over. The streams find out which of these they lack.
                return self._begin_anew(await read_end(conn))
            self._show(look)
            more = await self._settle(conn, look)
        wait = self._measure(snapshot)
        return 0.0 if more else wait

    def _is_idle(self) -> bool:
        """Whether nobody has followed anything for a while, and nobody waits for it to begin."""
        now = asyncio.get_running_loop().time()
        if self._routes:
            self._deserted = None
            return not self._begun.is_set()
        if self._deserted is None:
            self._deserted = now
        if now - self._deserted > _LINGER:
            self._begun.clear()
        return not self._begun.is_set()

    def _begin(self, end: LogEnd) -> float:
        """Begins at the end of the log."""
        self._gauges.clock.set(end.snapshot.clock)
        self._check_origin(end.snapshot)
        self._seen = end.seen
        self._window.begin(end.settled, through=end.seen.top[0])
        # Whoever waits has its mailbox up, and reads its past from now on.
        if self._routes:
            self._begun.set()
        return self._measure(end.snapshot)

    def _begin_anew(self, end: LogEnd) -> float:
        """Begins at the end of the log, and sends the streams to PostgreSQL for what it skips."""
        wait = self._begin(end)
        self._routes.overflow()
        return wait

    def _show(self, look: Look) -> None:
        events = look.page.events
        self._routes.show(events)
        self._window.add(events)
        self._seen = look.seen
        self._found = len(events)
        self._gauges.events += len(events)

    async def _settle(self, conn: Connection, look: Look) -> bool:
        """Hands over a page of what has settled; whether there is more to see or to hand over."""
        window, horizon = self._window, look.snapshot.horizon
        if missing := window.missing_through:
            last = min(missing, horizon - 1)
            page = await read_range(
                conn, after=window.place, through=end_of(last), limit=self._page
            )
            # Read behind the page: something may have been pruned since the look.
            end = await read_end(conn)
            if end.snapshot.start > window.place:
                self._begin_anew(end)
                return True
            # Handing over and moving on are one step for whoever compares with the place.
            self._routes.settle(page.events)
            window.move(page.end, found_all=page.complete and last == missing)
            return not (look.page.complete and page.complete) or window.has_settled(horizon)
        # What a full look has left for the next one may stand before what waits here.
        through = None if look.page.complete else look.page.end
        self._routes.settle(window.take(horizon, self._page, through=through))
        return not look.page.complete or window.has_settled(horizon)

    def _check_origin(self, snapshot: Snapshot) -> None:
        """Tells once of events that cannot be of this cluster: they would never settle."""
        newest = max(self._window.place[0], 0 if self._seen is None else self._seen.top[0])
        if newest < snapshot.next or self._told:
            return
        self._told = True
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
            return random.uniform(*_INTERVAL)
        return min(max(now - self._behind[1], _SETTLE[0]), _SETTLE[1])

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        last_look, failing = clock(), False
        while True:
            try:
                wait = await self.run_once()
            except Exception as error:  # noqa: BLE001 - without the tail every stream stands still
                self._gauges.failures += 1
                if not failing:
                    _log.warning("tail_failed", exc_info=_unexpected(error))
                failing = True
                if clock() - last_look > _PATIENCE:
                    self._routes.fail(Unavailable("postgresql"))
                await asyncio.sleep(random.uniform(*_RETRY))
                continue
            if failing:
                _log.info("tail_resumed", gone_s=round(clock() - last_look, 1))
            last_look, failing = clock(), False
            rest = self._pace.rest(self._found, now=last_look)
            # When there is more, the streams take what there is before it reads on.
            await asyncio.sleep(rest if wait else 0)
            if wait and self._begun.is_set():
                await self._wake.wait(wait)
            elif wait:
                await self._routes.wait(wait)


def _unexpected(error: Exception) -> Exception | None:
    """An error that should stand in the log in full."""
    return None if isinstance(error, Unavailable) else error
