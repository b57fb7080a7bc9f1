"""The tail: reads each event once, for all streams of the gateway."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from headrace_core.domain.errors import Unavailable
from headrace_core.store.database import Database
from headrace_core.store.events import (
    BEGINNING,
    Place,
    Seen,
    Snapshot,
    end_of,
    hold_snapshot,
    read_end,
    read_range,
    read_unseen,
)
from headrace_core.tasks import end_tasks
from headrace_core.wake import Listener
from headrace_gateway.watch.gauges import Gauges
from headrace_gateway.watch.routing import Routes
from headrace_gateway.watch.window import Window

_log = structlog.get_logger()

# How many events are read at once.
_PAGE: Final = 500
# How many events wait for an open transaction before they are left to PostgreSQL.
_WINDOW: Final = 10_000

# Seconds between two looks: without a wake-up, and at least, so that under load a look finds more.
_INTERVAL: Final = (0.7, 1.0)
_PAUSE: Final = 0.005
# The same while events wait for a transaction, which may ring nobody when it ends: as long as they
# have waited by now, within these bounds.
_SETTLE: Final = (0.01, 0.7)

# Seconds between two attempts while PostgreSQL is gone, and how long its streams stay. Then they
# are sent to another gateway, which may see more than this one.
_RETRY: Final = (0.1, 0.4)
_PATIENCE: Final = 10.0

# How long a stream waits for the first look of a gateway that starts, in seconds.
_READY: Final = 5.0


class Tail:
    """Reads the log and hands it over in two views: as it becomes visible, and as it settles.

    A wake-up only says that there is something to see. The tail knows what it has seen and how far
    it has settled, so it loses nothing while PostgreSQL is away, and it hands over nothing twice
    unless a look is cut off in the middle; streams know what they have sent.

    Args:
        database: where the events are.
        listener: rings after commits.
        routes: gets the events.
        gauges: told about the reading.
        page: how many events are read at once.
        window: how many events may wait to settle in memory.
    """

    def __init__(
        self,
        *,
        database: Database,
        listener: Listener,
        routes: Routes,
        gauges: Gauges,
        page: int = _PAGE,
        window: int = _WINDOW,
    ) -> None:
        self._database = database
        self._listener = listener
        self._routes = routes
        self._gauges = gauges
        self._page = page
        self._window = Window(room=window)
        self._seen: Seen | None = None
        self._begun = asyncio.Event()
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
        """Returns once it knows where the log ends.

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
        async with self._database.transaction() as conn:
            snapshot = await hold_snapshot(conn)
            self._gauges.clock.set(snapshot.clock)
            self._check_origin(snapshot)
            # After a sleep that was longer than events are kept, some were pruned that were not
            # handed over. The streams find out which of these they lack.
            overtaken = snapshot.start > self._window.place
            if overtaken or not self._routes:
                seen, place = await read_end(snapshot)
                # A stream that came meanwhile may have read its past before this snapshot was
                # taken: from then on every event is for somebody.
                if overtaken or not self._routes:
                    self._begin(seen, place)
                    self._routes.overflow()
                    return self._measure(snapshot)
            await self._show(snapshot)
            more = await self._settle(snapshot)
        wait = self._measure(snapshot)
        return 0.0 if more else wait

    def _begin(self, seen: Seen, place: Place) -> None:
        self._seen = seen
        self._window.begin(place, through=seen.top)
        self._begun.set()

    async def _show(self, snapshot: Snapshot) -> None:
        assert self._seen is not None, "there are no streams before the first look"
        top, end = self._seen.top, BEGINNING
        complete = False
        while not complete:
            page = await read_unseen(snapshot, seen=self._seen, after=end, limit=self._page)
            self._routes.show(page.events)
            self._window.add(page.events)
            self._gauges.events += len(page.events)
            if page.end is not None:
                end = page.end
                top = max(top, end[0])
            complete = page.complete
        # Only now: what is cut off is read again from where this look began.
        self._seen = snapshot.seen(top)

    async def _settle(self, snapshot: Snapshot) -> bool:
        window, horizon = self._window, snapshot.horizon
        if missing := window.missing_through:
            last = min(missing, horizon - 1)
            page = await read_range(
                snapshot.connection, after=window.place, through=end_of(last), limit=self._page
            )
            # Handing over and moving on are one step for whoever compares with the place.
            self._routes.settle(page.events)
            window.move(page.end, found_all=page.complete and last == missing)
            return not page.complete or window.has_settled(horizon)
        self._routes.settle(window.take(horizon, self._page))
        return window.has_settled(horizon)

    def _check_origin(self, snapshot: Snapshot) -> None:
        """Tells once of events that cannot be of this cluster: they would never settle."""
        newest = max(self._window.place[0], 0 if self._seen is None else self._seen.top)
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
        if self._behind is None and self._seen.top >= snapshot.horizon:
            self._behind = (self._seen.top, now)
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
            await asyncio.sleep(_PAUSE)
            if wait:
                await self._listener.wait(wait)


def _unexpected(error: Exception) -> Exception | None:
    """An error that should stand in the log in full."""
    return None if isinstance(error, Unavailable) else error
