"""Overviews for dashboards: counts, rates and durations of a tenant, kept up to date by its events.

The first overview of a tenant counts all jobs once. After that, each visible event changes the
counts, and the jobs are counted again from time to time, because pruning has no events. All streams
with the same tenant and scope share one computation, which ends after the last of them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import nlargest
from typing import Final

import structlog

from headrace_core.domain.access import Scope
from headrace_core.domain.durations import bucket_of
from headrace_core.domain.errors import HeadraceError, ShuttingDown, Unavailable
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.monitor import (
    FailingType,
    OldestJob,
    Overview,
    QueueStatus,
    Rates,
    latency_of,
)
from headrace_core.domain.pool import Lane, Pool, serves_queue, serves_tenant
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.jobs.waiting import live_pools
from headrace_core.store.monitor import (
    EventContext,
    JobCounts,
    SeenTransactions,
    count_draining,
    count_lanes,
    event_contexts,
    lane_heads,
    read_recent,
)
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.messages import next_mark
from headrace_gateway.streams.rolling import RollingCounts
from headrace_gateway.streams.routing import Mailbox, Routes
from headrace_gateway.streams.tail import Tail
from headrace_gateway.streams.timing import DEFAULT, Timing

_log = structlog.get_logger()

# The periods of the rates, and of the errors, in seconds. Waits and durations are those of the long
# period.
_SHORT_PERIOD: Final = 10
_LONG_PERIOD: Final = 60
_ERROR_PERIOD: Final = 300
# The maximum number of events that are read when a computation starts.
_MAX_RECENT_EVENTS: Final = 5_000
# The maximum number of events whose contexts one statement reads, and of lanes whose oldest job.
_MAX_CONTEXTS: Final = 1_000
_MAX_LANES_READ: Final = 100
# The maximum numbers of queues and of errors in an overview.
_MAX_QUEUES: Final = 1_000
_MAX_FAILING_TYPES: Final = 20
# The time limit of a count, in seconds. With ten million jobs, a count takes a few seconds.
_COUNT_TIMEOUT: Final = 60.0

_NO_CHANGE: Final = {EventType.PROGRESSED, EventType.OUTPUT, EventType.CANCEL_REQUESTED}
# The events whose previous state the event itself does not show.
_SEVERAL_SOURCES: Final = {EventType.CANCELLED, EventType.EXPIRED, EventType.REQUEUED}
# The events whose error counts as a failed attempt.
_ERRORS: Final = {
    *(EventType.FAILED, EventType.RETRY_SCHEDULED),
    *(EventType.EXPIRED, EventType.WORKER_LOST),
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# A queue and a job type.
_Lane = tuple[str, str]
# A job type and a type of error.
_Failure = tuple[str, str]


@dataclass(slots=True)
class _LaneState:
    """The jobs of a lane.

    Attributes:
        jobs: the number of jobs by state.
        oldest: the time at which the oldest QUEUED job was queued; None if it must be read.
        oldest_id: its id; None if it is not known.
    """

    jobs: Counter[JobState] = field(default_factory=Counter)
    oldest: datetime | None = None
    oldest_id: JobId | None = None


@dataclass(frozen=True, slots=True)
class _Change:
    """The effect of an event on the counts.

    Attributes:
        xid: the transaction of the event.
        lane: the lane of its job.
        source: the previous state; None for a new job.
        target: the new state.
        job_id: the job.
        queued: the time at which the job was queued before or by this event.
    """

    xid: int
    lane: _Lane
    source: JobState | None
    target: JobState
    job_id: JobId
    queued: datetime | None


class _Counts:
    """The number of jobs by lane and state, from a count and the events after it."""

    def __init__(self, counts: JobCounts) -> None:
        self.time = counts.time
        self.seen: SeenTransactions = counts.seen
        self.lanes: dict[_Lane, _LaneState] = {}
        for queue, job_type, state, jobs, oldest in counts.lanes:
            lane = self.lanes.setdefault((queue, job_type), _LaneState())
            lane.jobs[state] = jobs
            if state is JobState.QUEUED:
                lane.oldest = oldest

    def apply(self, change: _Change) -> None:
        """Apply an event that the count has not included."""
        if change.xid in self.seen:
            return
        lane = self.lanes.setdefault(change.lane, _LaneState())
        if change.source is not None:
            lane.jobs[change.source] -= 1
        if change.target is JobState.QUEUED and not lane.jobs[JobState.QUEUED]:
            lane.oldest, lane.oldest_id = change.queued, change.job_id
        lane.jobs[change.target] += 1
        queued = change.queued
        if change.source is not JobState.QUEUED or queued is None:
            return
        if lane.oldest is None or queued <= lane.oldest:
            lane.oldest = lane.oldest_id = None

    def unknown_heads(self) -> list[_Lane]:
        """Return lanes whose oldest job, or its id, is not known."""
        return [
            name
            for name, lane in self.lanes.items()
            if lane.jobs[JobState.QUEUED] > 0 and (lane.oldest is None or lane.oldest_id is None)
        ][:_MAX_LANES_READ]


class _Computation:
    """The computation of the overviews of one tenant and scope.

    Args:
        tenant: the tenant.
        scope: restricts the jobs to queues and types.
        database: stores the jobs.
        routes: routes the events of the tenant.
        tail: reads the events.
        gauges: has the database's clock.
        bus: announces changes of workers.
        counting: limits the number of concurrent counts.
        timing: the intervals.
    """

    def __init__(
        self,
        *,
        tenant: str,
        scope: Scope,
        database: Database,
        routes: Routes,
        tail: Tail,
        gauges: Gauges,
        bus: WakeBus,
        counting: asyncio.Semaphore,
        timing: Timing,
    ) -> None:
        self._tenant = tenant
        self._scope = scope
        self._database = database
        self._routes = routes
        self._tail = tail
        self._gauges = gauges
        self._bus = bus
        self._counting = counting
        self._timing = timing
        # The number of streams that use the computation.
        self.streams = 0
        # True after the last stream has left for good.
        self.stopped = False
        # Increases with each change.
        self.version = 0
        self._changed = asyncio.Event()
        self._failed = asyncio.Event()
        self._error: BaseException | None = None
        self._counts: _Counts | None = None
        # The changes since the start of a count that is running; None if none is running.
        self._uncounted: list[_Change] | None = None
        # Set if events were missed, so the jobs must be counted again soon.
        self._must_count = asyncio.Event()
        self._recent_seen = SeenTransactions(next=0, open=frozenset())
        self._since = _EPOCH
        self._short: RollingCounts[str] = RollingCounts(_SHORT_PERIOD)
        self._long: RollingCounts[str] = RollingCounts(_LONG_PERIOD)
        self._wait: RollingCounts[int] = RollingCounts(_LONG_PERIOD)
        self._run: RollingCounts[int] = RollingCounts(_LONG_PERIOD)
        self._errors: RollingCounts[_Failure] = RollingCounts(_ERROR_PERIOD)
        self._last_errors: dict[_Failure, tuple[JobId, datetime]] = {}
        self._pools: Sequence[Pool] = ()
        self._draining = 0
        self._cached: tuple[int, Overview] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start in the background."""
        self._task = asyncio.create_task(self._run_all(), name="overview")

    async def stop(self) -> None:
        """End the background tasks."""
        if self._task is not None:
            await end_tasks(self._task)

    @property
    def failed(self) -> bool:
        """Whether the computation has ended with an error."""
        return self._failed.is_set()

    async def wait_for_change(self, version: int, seconds: float) -> bool:
        """Wait until there is an overview after `version`; return False after `seconds`.

        Raises:
            HeadraceError: the computation has ended.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.version <= version and not self.failed:
                    await self._changed.wait()
        self.check()
        return self.version > version

    async def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            HeadraceError: the computation has ended.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._failed.wait()
        self.check()

    def check(self) -> None:
        """Raise the error of the computation, if any."""
        if self._error is not None:
            raise self._error

    def overview(self) -> Overview:
        """Return the current overview; all streams share it until the next change."""
        if self._cached is None or self._cached[0] != self.version:
            self._cached = self.version, self._build()
        return self._cached[1]

    def fail(self, error: BaseException) -> None:
        """End all streams with an error."""
        if self._error is None:
            self._error = error
        self._failed.set()
        self._changed.set()

    def _note_change(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run_all(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            with self._routes.open_for_tenant(self._tenant) as mailbox:
                await self._tail.wait_until_ready()
                await self._read_recent()
                await self._read_workers()
                await self._count()
                await self._read_heads()
                self._note_change()
                tasks = [
                    asyncio.create_task(step)
                    for step in (
                        self._follow_events(mailbox),
                        self._follow_workers(),
                        self._recount(),
                        self._tick(),
                    )
                ]
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        except HeadraceError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - the streams must not wait forever
            _log.exception("overview_failed", tenant=self._tenant)
            self.fail(error)
        finally:
            await end_tasks(*tasks)

    async def _follow_events(self, mailbox: Mailbox) -> None:
        while True:
            await mailbox.wait()
            if mailbox.overflowed:
                mailbox.reopen()
                # The rates continue with the events from now on.
                self._since = self._now()
                self._must_count.set()
            events = mailbox.take(_MAX_CONTEXTS)
            await self._apply(events)
            await self._read_heads()
            if events:
                self._note_change()
            # Further events of this time are applied together.
            await asyncio.sleep(0 if mailbox else self._timing.overview_pace)

    async def _apply(self, events: Sequence[JobEvent]) -> None:
        scope = self._scope
        relevant = [
            event
            for event in events
            if event.type not in _NO_CHANGE
            and (not scope.queues or event.queue in scope.queues)
            and (not scope.types or event.job_type in scope.types)
        ]
        contexts = await self._read_contexts(relevant)
        for event in relevant:
            context = contexts.get((event.job_id, event.seq))
            self._count_change(event, context)
            if event.xid not in self._recent_seen:
                self._add_rates(event, context)

    async def _read_contexts(
        self, events: Sequence[JobEvent]
    ) -> Mapping[tuple[JobId, int], EventContext]:
        wanted = [
            (event.job_id, event.seq)
            for event in events
            if event.type not in (EventType.SUBMITTED, EventType.DUE)
        ]
        if not wanted:
            return {}
        try:
            async with self._database.statement() as conn:
                return await event_contexts(conn, events=wanted)
        except Unavailable:
            self._must_count.set()
            return {}

    def _count_change(self, event: JobEvent, context: EventContext | None) -> None:
        source = _source_of(event) if event.type not in _SEVERAL_SOURCES else None
        if event.type in _SEVERAL_SOURCES:
            if context is None:
                self._must_count.set()
                return
            source = context.state
        queued: datetime | None = None
        if event.state is JobState.QUEUED:
            queued = event.time
        elif source is JobState.QUEUED and context is not None:
            queued = context.time
        change = _Change(
            event.xid, (event.queue, event.job_type), source, event.state, event.job_id, queued
        )
        if self._uncounted is not None:
            self._uncounted.append(change)
        assert self._counts is not None
        self._counts.apply(change)

    def _add_rates(self, event: JobEvent, context: EventContext | None) -> None:
        time = event.time.timestamp()
        self._add_event(event.type, event.state, time, 1)
        if context is not None:
            if context.wait is not None:
                self._wait.add(bucket_of(context.wait), time=time)
            if context.run is not None:
                self._run.add(bucket_of(context.run), time=time)
        if event.type in _ERRORS and event.error is not None:
            self._add_error((event.job_type, event.error.type), event.job_id, event.time, 1)

    def _add_event(self, kind: EventType, state: JobState, time: float, events: int) -> None:
        name = _RATES.get(kind) or _RATES_OF_ENDS.get(state)
        if name is not None:
            self._short.add(name, time=time, count=events)
            self._long.add(name, time=time, count=events)

    def _add_error(self, key: _Failure, job_id: JobId, time: datetime, events: int) -> None:
        self._errors.add(key, time=time.timestamp(), count=events)
        last = self._last_errors.get(key)
        if key in self._errors.total and (last is None or last[1] <= time):
            self._last_errors[key] = job_id, time

    async def _read_recent(self) -> None:
        async with self._database.statement() as conn:
            history = await read_recent(
                conn,
                tenant=self._tenant,
                queues=self._scope.queues,
                types=self._scope.types,
                period=timedelta(seconds=_ERROR_PERIOD),
                limit=_MAX_RECENT_EVENTS,
            )
        self._since, self._recent_seen = history.since, history.seen
        for row in history.events:
            time = row.second + 0.5
            self._add_event(row.type, row.state, time, row.events)
            if row.wait_bucket is not None:
                self._wait.add(row.wait_bucket, time=time, count=row.events)
            if row.run_bucket is not None:
                self._run.add(row.run_bucket, time=time, count=row.events)
            if row.type in _ERRORS and row.error_type is not None:
                key = row.job_type, row.error_type
                self._add_error(key, row.last_job_id, row.last_time, row.events)

    async def _read_workers(self) -> None:
        scope = self._scope
        async with self._database.statement() as conn:
            pools = await live_pools(conn)
            draining = await count_draining(conn, tenant=self._tenant, types=scope.types)
        self._draining = draining
        self._pools = [
            pool
            for pool in pools
            if serves_tenant(pool.tenants, self._tenant)
            and (not scope.types or not scope.types.isdisjoint(pool.types))
        ]

    async def _follow_workers(self) -> None:
        wake = self._bus.subscribe(Topic.WORKERS)
        try:
            while True:
                await wake.sleep(self._timing.overview_workers)
                wake.clear()
                before = _capacity(self._pools), self._draining
                if await self._retried(self._read_workers) and before != (
                    _capacity(self._pools),
                    self._draining,
                ):
                    self._note_change()
        finally:
            self._bus.unsubscribe(wake)

    async def _count(self) -> None:
        """Count all jobs, and apply the events that the count has not seen."""
        self._uncounted = []
        try:
            async with self._database.snapshot(statement_timeout=_COUNT_TIMEOUT) as conn:
                counts = _Counts(
                    await count_lanes(
                        conn,
                        tenant=self._tenant,
                        queues=self._scope.queues,
                        types=self._scope.types,
                    )
                )
            for change in self._uncounted:
                counts.apply(change)
            self._counts = counts
        finally:
            self._uncounted = None

    async def _recount(self) -> None:
        clock = asyncio.get_running_loop().time
        took = 0.0
        while True:
            # At most a twentieth of the time is spent on counts of this tenant.
            await asyncio.sleep(max(self._timing.overview_recount[0], 20 * took))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.overview_recount[1]):
                    await self._must_count.wait()
            self._must_count.clear()
            async with self._counting:
                start = clock()
                if await self._retried(self._count):
                    self._note_change()
                else:
                    self._must_count.set()
                took = clock() - start

    async def _tick(self) -> None:
        """Announce a change while rates or errors leave their periods."""
        before: tuple[bool, int] = (False, 0)
        while True:
            await asyncio.sleep(self._timing.overview_tick)
            now = self._now().timestamp()
            self._long.expire(now)
            self._errors.expire(now)
            after = bool(self._long.total), self._errors.total.total()
            if after[0] or after != before:
                self._note_change()
            before = after

    async def _read_heads(self) -> None:
        """Read the oldest jobs of lanes after the known ones have left."""
        assert self._counts is not None
        counts = self._counts
        lanes = counts.unknown_heads()
        if not lanes:
            return
        try:
            async with self._database.statement() as conn:
                heads = await lane_heads(conn, tenant=self._tenant, lanes=lanes)
        except Unavailable:
            return
        for head in heads:
            lane = counts.lanes[head.queue, head.type]
            if lane.oldest is None or head.queue_time <= lane.oldest:
                lane.oldest, lane.oldest_id = head.queue_time, head.job_id

    async def _retried(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Run a step; return False after a pause if PostgreSQL is not available.

        The tail ends the streams if it is not available for long.
        """
        try:
            await step()
        except Unavailable:
            await asyncio.sleep(random.uniform(*self._timing.retry))
            return False
        return True

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._gauges.clock.now(), UTC)

    def _build(self) -> Overview:
        assert self._counts is not None
        time = self._now()
        now = time.timestamp()
        for rolling in (self._short, self._long, self._wait, self._run, self._errors):
            rolling.expire(now)
        states: Counter[JobState] = Counter()
        queues: dict[str, Counter[JobState]] = {}
        heads: dict[str, datetime] = {}
        waiting: dict[str, list[str]] = {}
        oldest: OldestJob | None = None
        for (queue, job_type), lane in self._counts.lanes.items():
            jobs = queues.setdefault(queue, Counter())
            for state, count in lane.jobs.items():
                states[state] += count
                jobs[state] += count
            if lane.jobs[JobState.QUEUED] > 0:
                waiting.setdefault(queue, []).append(job_type)
                if lane.oldest is not None:
                    heads[queue] = min(heads.get(queue, lane.oldest), lane.oldest)
                    if oldest is None or lane.oldest < oldest.queue_time:
                        oldest = OldestJob(
                            id=lane.oldest_id,
                            queue=queue,
                            type=job_type,
                            queue_time=lane.oldest,
                        )
        scope = self._scope
        for pool in self._pools:
            for queue in pool.queues:
                if not scope.queues or queue in scope.queues:
                    queues.setdefault(queue, Counter())
        listed = sorted(nlargest(_MAX_QUEUES, queues, key=lambda queue: queues[queue].total()))
        return Overview(
            time=time,
            count_time=self._counts.time,
            states=+states,
            queues=[
                self._queue_status(queue, +queues[queue], waiting.get(queue, ()), heads.get(queue))
                for queue in listed
            ],
            omitted_queues=len(queues) - len(listed),
            oldest_job=oldest,
            workers=sum(pool.workers for pool in self._pools),
            draining_workers=self._draining,
            slots=sum(pool.slots for pool in self._pools),
            busy_slots=max(0, states[JobState.RUNNING]),
            rates=[self._rates(rolling, now) for rolling in (self._short, self._long)],
            wait=latency_of(self._wait.total),
            run=latency_of(self._run.total),
            failing_types=self._failing_types(),
        )

    def _queue_status(
        self,
        queue: str,
        states: Mapping[JobState, int],
        waiting: Sequence[str],
        oldest: datetime | None,
    ) -> QueueStatus:
        lanes = [Lane(self._tenant, queue, job_type) for job_type in waiting]
        serving = [
            pool
            for pool in self._pools
            if (any(map(pool.serves, lanes)) if lanes else serves_queue(pool.queues, queue))
        ]
        return QueueStatus(
            queue=queue,
            states=states,
            oldest_queue_time=oldest,
            workers=sum(pool.workers for pool in serving),
            slots=sum(pool.slots for pool in serving),
        )

    def _rates(self, rolling: RollingCounts[str], now: float) -> Rates:
        # A window of less than a second would show a single event as a high rate.
        window = min(rolling.seconds, max(1.0, now - self._since.timestamp()))
        return Rates(window=window, **{name: rolling.total[name] / window for name in _RATE_NAMES})

    def _failing_types(self) -> Sequence[FailingType]:
        total = self._errors.total
        for key in [key for key in self._last_errors if key not in total]:
            del self._last_errors[key]
        return [
            FailingType(
                type=key[0],
                error_type=key[1],
                attempts=attempts,
                last_job_id=self._last_errors[key][0],
                last_time=self._last_errors[key][1],
            )
            for key, attempts in total.most_common(_MAX_FAILING_TYPES)
        ]


class Overviews:
    """Opens streams of overviews, and shares their computations.

    Args:
        database: stores the jobs.
        routes: routes the events.
        tail: reads the events.
        gauges: counts the streams.
        bus: announces changes of workers.
        timing: the intervals.
    """

    def __init__(
        self,
        *,
        database: Database,
        routes: Routes,
        tail: Tail,
        gauges: Gauges,
        bus: WakeBus,
        timing: Timing = DEFAULT,
    ) -> None:
        self._database = database
        self._routes = routes
        self._tail = tail
        self._gauges = gauges
        self._bus = bus
        self._timing = timing
        self._counting = asyncio.Semaphore(1)
        self._computations: dict[tuple[str, frozenset[str], frozenset[str]], _Computation] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """End all streams with ShuttingDown."""
        computations = list(self._computations.values())
        for computation in computations:
            computation.fail(ShuttingDown())
        await asyncio.gather(*(computation.stop() for computation in computations))
        await end_tasks(*self._ending)

    async def watch(
        self, tenant: str, scope: Scope, *, interval: float, idle: float
    ) -> AsyncGenerator[Overview | None, None]:
        """Yield the current overview, and a new one after each change; None is an idle mark.

        The caller must close the generator if it stops early.

        Args:
            tenant: the tenant.
            scope: restricts the jobs to queues and types.
            interval: the minimum time between two overviews, in seconds.
            idle: the maximum time without an overview or a mark, in seconds.

        Raises:
            Unavailable: PostgreSQL cannot be read.
            ShuttingDown: the gateway is shutting down.
        """
        clock = asyncio.get_running_loop().time
        computation = self._join(tenant, scope)
        version = 0
        now = earliest = clock()
        mark_due = next_mark(now, idle)
        try:
            while True:
                if now < earliest:
                    await computation.pause(min(earliest, mark_due) - now)
                elif await computation.wait_for_change(version, max(0.0, mark_due - now)):
                    version = computation.version
                    yield computation.overview()
                    now = clock()
                    earliest, mark_due = now + interval, next_mark(now, idle)
                now = clock()
                if now >= mark_due:
                    yield None
                    now = clock()
                    mark_due = next_mark(now, idle)
        finally:
            self._leave(computation)

    def _join(self, tenant: str, scope: Scope) -> _Computation:
        key = tenant, scope.queues, scope.types
        computation = self._computations.get(key)
        if computation is None or computation.failed:
            computation = self._computations[key] = _Computation(
                tenant=tenant,
                scope=scope,
                database=self._database,
                routes=self._routes,
                tail=self._tail,
                gauges=self._gauges,
                bus=self._bus,
                counting=self._counting,
                timing=self._timing,
            )
            computation.start()
            self._gauges.overview_computations += 1
        computation.streams += 1
        self._gauges.overview_streams += 1
        return computation

    def _leave(self, computation: _Computation) -> None:
        self._gauges.overview_streams -= 1
        computation.streams -= 1
        if not computation.streams:
            task = asyncio.create_task(self._end(computation))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, computation: _Computation) -> None:
        """End an unused computation, unless another stream joins it soon."""
        if not computation.failed:
            await asyncio.sleep(self._timing.linger)
        if computation.streams or computation.stopped:
            return
        computation.stopped = True
        self._gauges.overview_computations -= 1
        for key, running in list(self._computations.items()):
            if running is computation:
                del self._computations[key]
        await computation.stop()


def _source_of(event: JobEvent) -> JobState | None:
    """Return the state before an event that has only one possible source."""
    match event.type:
        case EventType.SUBMITTED:
            return None
        case EventType.STARTED:
            return JobState.QUEUED
        case EventType.DUE:
            # A job is SCHEDULED only before its first attempt, and RETRYING only after it.
            return JobState.RETRYING if event.attempt else JobState.SCHEDULED
        case _:
            return JobState.RUNNING


def _capacity(pools: Sequence[Pool]) -> set[tuple[str, frozenset[str], int, int]]:
    return {(pool.name, pool.queues, pool.workers, pool.slots) for pool in pools}


_RATES: Final = {
    EventType.SUBMITTED: "submitted",
    EventType.STARTED: "started",
    EventType.RETRY_SCHEDULED: "retried",
}
_RATES_OF_ENDS: Final = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}
_RATE_NAMES: Final = (*_RATES.values(), *_RATES_OF_ENDS.values())
