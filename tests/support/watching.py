"""Streams that a test reads, and transactions that commit at the test's request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import text

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import DEFAULT_TENANT, Job, JobEvent
from headrace_core.domain.query import JobFilter
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

# The limit of each wait in seconds, generous because the machine may be busy.
DEADLINE_S = 60

# The job id and the event number.
EventId = tuple[JobId, int]


def event_ids(events: list[JobEvent]) -> list[EventId]:
    return [(event.job_id, event.seq) for event in events]


# The test decides when these transactions end.
_WITHOUT_TIMEOUT = "SET LOCAL idle_in_transaction_session_timeout = 0"


class OpenWriter:
    """A transaction with an assigned id, which commits at the test's request."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stack = AsyncExitStack()

    async def open(self) -> OpenWriter:
        self.connection = await self._stack.enter_async_context(self._database.transaction())
        await self.connection.execute(text(_WITHOUT_TIMEOUT))
        self.xid = int(await self.connection.scalar(text("SELECT pg_current_xact_id()::text")))
        return self

    async def submit(self, count: int = 1, **job: Any) -> list[JobId]:
        """Write jobs and their first events."""
        results = await submit_jobs(self.connection, [new_job(**job) for _ in range(count)])
        return [result.id for result in results if isinstance(result, Job)]

    async def commit(self) -> None:
        await self._stack.aclose()

    async def roll_back(self) -> None:
        await self.connection.rollback()
        await self._stack.aclose()


async def open_writer(database: Database) -> OpenWriter:
    """Start a transaction and assign its id."""
    return await OpenWriter(database).open()


@asynccontextmanager
async def foreign_transaction(database: Database) -> AsyncIterator[None]:
    """Keep another application's idle transaction, with an assigned id, open during the block."""
    async with database.session() as connection:
        await connection.execute("BEGIN")
        await connection.execute(_WITHOUT_TIMEOUT)
        await connection.execute("SELECT pg_current_xact_id()")
        yield
        await connection.execute("COMMIT")


@asynccontextmanager
async def watching(settings: Settings, timing: Timing = DEFAULT) -> AsyncIterator[Watch]:
    """Run the streams of a gateway, with their own connections."""
    database = Database(settings, application="watch")
    try:
        async with database.transaction() as connection:
            installation = await read_installation(connection)
        bus = WakeBus(settings, database, Topic.EVENTS, Topic.SUBSCRIPTIONS, Topic.LOGS)
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


class ManualTail:
    """A tail that runs only at the test's request. It records the visible and settled events."""

    def __init__(self, settings: Settings, database: Database, **bounds: int) -> None:
        self.gauges = Gauges()
        self.routes = RecordingRoutes(self.gauges)
        self.tail = Tail(
            database=database,
            routes=self.routes,
            gauges=self.gauges,
            **bounds,
        )

    async def start(self) -> None:
        """Find the end of the log, and record every event after it."""
        self.routes.open = True
        await self.tail.run_once()

    async def run(self) -> None:
        """Run until all events are routed."""
        while await self.tail.run_once() == 0:
            pass

    @property
    def visible(self) -> list[JobEvent]:
        return self.routes.visible

    @property
    def settled(self) -> list[JobEvent]:
        return self.routes.settled


class RecordingRoutes(Routes):
    """Routes that record all events."""

    def __init__(self, gauges: Gauges) -> None:
        super().__init__(max_events=1, max_characters=1000, gauges=gauges)
        self.visible: list[JobEvent] = []
        self.settled: list[JobEvent] = []
        self.open = False

    def __bool__(self) -> bool:
        return self.open

    def route_visible(self, events: Any) -> None:
        self.visible.extend(events)

    def route_settled(self, events: Any) -> None:
        self.settled.extend(events)


class Reader:
    """Reads a stream in a separate task, page by page.

    Args:
        pages: the stream.
    """

    def __init__(self, pages: AsyncGenerator[Any, None]) -> None:
        self.pages: list[Any] = []
        self.events: list[JobEvent] = []
        self._changed = asyncio.Condition()
        self._has_ended = False
        self._stream = pages
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with aclosing(self._stream) as pages:
                async for page in pages:
                    async with self._changed:
                        self.pages.append(page)
                        self.events += page.events if isinstance(page, WatchPage) else page
                        self._changed.notify_all()
        finally:
            async with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.events]

    @property
    def event_ids(self) -> list[EventId]:
        return event_ids(self.events)

    async def until(
        self, condition: Callable[[Reader], bool], *, within: float = DEADLINE_S
    ) -> None:
        """Wait until the pages read so far meet a condition.

        Raises:
            TimeoutError: the condition was not met in time.
            HeadraceError: the stream ended first.
        """
        async with asyncio.timeout(within):
            async with self._changed:
                await self._changed.wait_for(lambda: condition(self) or self._has_ended)
            if not condition(self):
                await self.task
                raise AssertionError("the stream has ended")

    async def has(self, count: int, *, within: float = DEADLINE_S) -> None:
        """Wait until at least `count` events were read."""
        await self.until(lambda reader: len(reader.events) >= count, within=within)

    async def end(self) -> None:
        """Wait until the stream has ended."""
        async with asyncio.timeout(DEADLINE_S):
            await self.task

    async def cancel(self) -> None:
        """Cancel the stream, like a client that disconnects."""
        await end_tasks(self.task)


def follow_job(watch: Watch, job_id: JobId, after_seq: int = 0) -> Reader:
    return Reader(watch.watch_job(DEFAULT_TENANT, job_id, after_seq))


def follow_jobs(watch: Watch, cursor: str = "", **job_filter: Any) -> Reader:
    return Reader(watch.watch_jobs(DEFAULT_TENANT, JobFilter(**job_filter), cursor))


def subscriptions(watch: Watch) -> tuple[int, int, int]:
    """Return the numbers of mailboxes, routes by job and routes by key of a watch."""
    routes = watch._routes
    return len(routes._mailboxes), len(routes._by_job), len(routes._by_key)
