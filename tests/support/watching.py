"""Streams that a test opens and reads, and writers that commit when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import text

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import DEFAULT_TENANT, JobEvent
from headrace_core.domain.query import JobFilter
from headrace_core.domain.submission import Submitted
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.streams import Watch, WatchPage
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.routing import Routes
from headrace_gateway.streams.tail import Tail
from headrace_gateway.streams.timing import DEFAULT, Timing
from support.jobs import new_job

T = TypeVar("T")

# No wait of a test is longer, in seconds.
DEADLINE_S = 20

# What names an event for ever.
Name = tuple[JobId, int]


def names(events: list[JobEvent]) -> list[Name]:
    return [(event.job_id, event.seq) for event in events]


# The tests decide how long these stay open.
_TAKES_ITS_TIME = "SET LOCAL idle_in_transaction_session_timeout = 0"


class OpenWriter:
    """A transaction that has its id, and commits when the test says so."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stack = AsyncExitStack()

    async def open(self) -> OpenWriter:
        self.connection = await self._stack.enter_async_context(self._database.transaction())
        await self.connection.execute(text(_TAKES_ITS_TIME))
        self.xid = int(await self.connection.scalar(text("SELECT pg_current_xact_id()::text")))
        return self

    async def submit(self, count: int = 1, **job: Any) -> list[JobId]:
        """Writes jobs and their first events."""
        results = await submit_jobs(self.connection, [new_job(**job) for _ in range(count)])
        return [result.job.id for result in results if isinstance(result, Submitted)]

    async def commit(self) -> None:
        await self._stack.aclose()

    async def roll_back(self) -> None:
        await self.connection.rollback()
        await self._stack.aclose()


async def open_writer(database: Database) -> OpenWriter:
    """Begins a transaction and has it take its id."""
    return await OpenWriter(database).open()


@asynccontextmanager
async def foreign_transaction(database: Database) -> AsyncIterator[None]:
    """Somebody else's transaction that has an id and does nothing, for the length of the block."""
    async with database.session() as connection:
        await connection.execute("BEGIN")
        await connection.execute(_TAKES_ITS_TIME)
        await connection.execute("SELECT pg_current_xact_id()")
        yield
        await connection.execute("COMMIT")


@asynccontextmanager
async def watching(settings: Settings, timing: Timing = DEFAULT) -> AsyncIterator[Watch]:
    """Streams as a gateway has them, over connections of their own."""
    database = Database(settings, application="watch")
    try:
        async with database.transaction() as connection:
            installation = await read_installation(connection)
        bus = WakeBus(settings, database, Topic.EVENTS, Topic.SUBSCRIPTIONS)
        await bus.start()
        watch = Watch(
            settings=settings,
            database=database,
            installation=installation,
            bus=bus,
            timing=timing,
        )
        await watch.start()
        try:
            yield watch
        finally:
            await watch.stop()
            await bus.stop()
    finally:
        await database.close()


class LookingTail:
    """A tail that looks only when the test says so, and records both views."""

    def __init__(self, settings: Settings, database: Database, **bounds: int) -> None:
        self.gauges = Gauges()
        self.routes = RecordingRoutes(self.gauges)
        self.tail = Tail(
            database=database,
            routes=self.routes,
            gauges=self.gauges,
            **bounds,
        )

    async def begin(self) -> None:
        """Finds the end of the log; from here on every event is recorded."""
        self.routes.open = True
        await self.tail.run_once()

    async def look(self) -> None:
        """Looks until it has nothing more to hand over."""
        while await self.tail.run_once() == 0:
            pass

    @property
    def visible(self) -> list[JobEvent]:
        return self.routes.visible

    @property
    def settled(self) -> list[JobEvent]:
        return self.routes.settled


class RecordingRoutes(Routes):
    """Routes that keep all they are given."""

    def __init__(self, gauges: Gauges) -> None:
        super().__init__(room=1, room_bytes=1000, gauges=gauges)
        self.visible: list[JobEvent] = []
        self.settled: list[JobEvent] = []
        self.open = False

    def __bool__(self) -> bool:
        return self.open

    def show(self, events: Any) -> None:
        self.visible.extend(events)

    def settle(self, events: Any) -> None:
        self.settled.extend(events)


class Reader:
    """Reads a stream in a task of its own, page by page, as far as the test lets it.

    Args:
        pages: the stream.
    """

    def __init__(self, pages: AsyncGenerator[Any, None]) -> None:
        self.pages: list[Any] = []
        self.events: list[JobEvent] = []
        self._changed = asyncio.Condition()
        self._stream = pages
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with aclosing(self._stream) as pages:
            async for page in pages:
                async with self._changed:
                    self.pages.append(page)
                    self.events += page.events if isinstance(page, WatchPage) else page
                    self._changed.notify_all()

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.events]

    @property
    def names(self) -> list[Name]:
        return names(self.events)

    async def until(self, met: Callable[[Reader], bool], *, within: float = DEADLINE_S) -> None:
        """Waits until what was read so far meets a condition.

        Raises:
            TimeoutError: it never did.
        """
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(lambda: met(self))

    async def has(self, count: int, *, within: float = DEADLINE_S) -> None:
        """Waits until so many events were read."""
        await self.until(lambda reader: len(reader.events) >= count, within=within)

    async def end(self) -> None:
        """Waits until the stream has ended by itself."""
        async with asyncio.timeout(DEADLINE_S):
            await self.task

    async def cancel(self) -> None:
        """Goes away, as a client does."""
        await end_tasks(self.task)


def follow_job(watch: Watch, job_id: JobId, after_seq: int = 0) -> Reader:
    return Reader(watch.watch_job(DEFAULT_TENANT, job_id, after_seq))


def follow_jobs(watch: Watch, cursor: str = "", **job_filter: Any) -> Reader:
    return Reader(watch.watch_jobs(DEFAULT_TENANT, JobFilter(**job_filter), cursor))


def subscriptions(watch: Watch) -> tuple[int, int, int]:
    """How many mailboxes and routes a watch has."""
    routes = watch._routes
    return len(routes._mailboxes), len(routes._by_job), len(routes._by_key)
