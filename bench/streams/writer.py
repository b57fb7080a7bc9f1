"""The writer: commits progress reports of running jobs on a fixed schedule."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

from bench.child import IDLE_S, Link
from bench.streams.following import Stream, event_order
from bench.streams.jobs import start, submit
from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.ids import JobId, WorkerId
from headrace_core.domain.job import Progress
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.report import write_reports
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus

# Smallest and largest number of reports per commit, as in a busy worker's group commit.
REPORTS_PER_COMMIT: Final = (5, 10)
# Reports per commit of a burst.
_REPORTS_PER_BURST_COMMIT: Final = 200
# The number of comparisons of the two clocks.
_COMPARISONS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The message that the writer's jobs are running.

    Attributes:
        jobs: the ids of each stream's jobs.
        skew: the lead of the database's clock over ours, in seconds.
    """

    jobs: list[list[str]]
    skew: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The request for `rate` events per second, from `start` (`time.time()`), for `seconds`."""

    start: float
    rate: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """The request for `events` events at full speed."""

    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """The result of a request.

    Attributes:
        events: the number of written events.
        due: the scheduled time of each commit, an array of microseconds (`q`).
        late: the delay of each commit relative to the schedule, in the same form.
        took: the duration of each commit, in the same form.
    """

    events: int
    due: bytes
    late: bytes
    took: bytes


async def write(link: Link, settings: Settings, streams: Sequence[Stream], seed: int) -> None:
    """Submit and start the streams' jobs, then write the requested events.

    Args:
        link: sends Prepared; then receives Schedule or Burst requests and sends a WriteResult for
            each.
        settings: the settings with the addresses of the servers.
        streams: the streams that receive the events.
        seed: the random seed for the order of events and the sizes of commits.
    """
    database = Database(settings, application="bench-writer")
    bus = WakeBus(settings, database)
    await bus.start()
    try:
        labels = [stream.label for stream in streams for _ in range(stream.jobs)]
        # Open the connections before the first commit.
        await asyncio.gather(*(database.ping() for _ in range(settings.database_pool_size)))
        ids = await submit(database, labels)
        worker_id = await start(database, ids)
        numbers = iter(range(len(ids)))
        by_stream = [list(islice(numbers, stream.jobs)) for stream in streams]
        link.send(
            Prepared(
                jobs=[[str(ids[number]) for number in own] for own in by_stream],
                skew=await _skew(database),
            )
        )
        writer = _Writer(
            database=database,
            bus=bus,
            worker_id=worker_id,
            jobs=[ids[number] for number in event_order(by_stream, seed)],
            seed=seed,
        )
        while True:
            request = await link.receive(object, timeout=IDLE_S)
            if isinstance(request, Burst):
                link.send(await writer.burst(request.events))
            else:
                assert isinstance(request, Schedule)
                link.send(await writer.write(request))
    finally:
        await bus.stop()
        await database.close()


class _Writer:
    def __init__(
        self,
        *,
        database: Database,
        bus: WakeBus,
        worker_id: WorkerId,
        jobs: Sequence[JobId],
        seed: int,
    ) -> None:
        self._database = database
        self._bus = bus
        self._worker_id = worker_id
        self._jobs = cycle(jobs)
        self._random = random.Random(seed)
        self._reset()

    def _reset(self) -> None:
        self._due, self._late, self._took = array("q"), array("q"), array("q")

    async def write(self, schedule: Schedule) -> WriteResult:
        """Write on schedule; a slow commit does not delay the next ones."""
        self._reset()
        total, events = round(schedule.rate * schedule.seconds), 0
        async with asyncio.TaskGroup() as commits:
            while events < total:
                size = min(self._random.randint(*REPORTS_PER_COMMIT), total - events)
                due = schedule.start + events / schedule.rate
                await asyncio.sleep(max(0.0, due - time.time()))
                commits.create_task(self._commit(size, due))
                events += size
        return self._written(events)

    async def burst(self, events: int) -> WriteResult:
        """Write commits one after the other."""
        self._reset()
        for written in range(0, events, _REPORTS_PER_BURST_COMMIT):
            await self._commit(min(_REPORTS_PER_BURST_COMMIT, events - written), time.time())
        return self._written(events)

    async def _commit(self, size: int, due: float) -> None:
        reports = [self._next_report(job_id) for job_id in islice(self._jobs, size)]
        started = time.time()
        async with self._database.transaction() as connection:
            accepted = await write_reports(connection, worker_id=self._worker_id, reports=reports)
        self._bus.publish(Topic.EVENTS)
        assert accepted == {report.key for report in reports}
        self._due.append(round(due * 1e6))
        self._late.append(round((started - due) * 1e6))
        self._took.append(round((time.time() - started) * 1e6))

    def _written(self, events: int) -> WriteResult:
        return WriteResult(
            events=events,
            due=self._due.tobytes(),
            late=self._late.tobytes(),
            took=self._took.tobytes(),
        )

    def _next_report(self, job_id: JobId) -> AttemptReport:
        done = self._random.randrange(1000)
        progress = Progress(
            fraction=done / 1000,
            message=f"row {done} of 1000",
            counters=f'{{"rows": {done}, "refused": {done // 100}}}',
        )
        return AttemptReport(key=AttemptKey(job_id, 1), progress=progress)


async def _skew(database: Database) -> float:
    """Return the lead of the database's clock in seconds, from the shortest round trip."""
    found: list[tuple[float, float]] = []
    async with database.session() as connection:
        for _ in range(_COMPARISONS):
            before = time.time()
            theirs = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())")
            after = time.time()
            found.append((after - before, float(theirs) - (before + after) / 2))
    return min(found)[1]
