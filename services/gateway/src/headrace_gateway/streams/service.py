"""Wires the streams, the tail and the leases."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial

from headrace_core.domain.access import Scope
from headrace_core.domain.errors import ShuttingDown
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import JobEvent
from headrace_core.domain.job_log import LogPosition
from headrace_core.domain.monitor import Overview
from headrace_core.domain.query import JobFilter
from headrace_core.domain.subscription import AcquiredSubscription
from headrace_core.runtime import loop
from headrace_core.runtime.loop import LoopRecords, LoopRunner
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import Place
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.store.subscriptions import read_filter
from headrace_core.wake import WakeBus
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.history import History
from headrace_gateway.streams.job_logs import LogStream, LogTail, LogUpdate
from headrace_gateway.streams.leases import Leases
from headrace_gateway.streams.many import FilterStream, WatchPage
from headrace_gateway.streams.overview import Overviews
from headrace_gateway.streams.routing import Routes
from headrace_gateway.streams.single import JobStream
from headrace_gateway.streams.subscription import SubscriptionStream
from headrace_gateway.streams.tail import Tail
from headrace_gateway.streams.timing import DEFAULT, Timing
from headrace_gateway.tokens import (
    SubscriptionCursor,
    decode_cursor,
    encode_cursor,
    encode_subscription_cursor,
)


class Watch:
    """Follows the events of one job, of many jobs or of a subscription, and the log of a job.

    Args:
        settings: the limits of the streams.
        database: stores the events.
        installation: signs the cursors.
        bus: delivers the wake-ups of the tails and the leases.
        records: the records of the tail and lease loops.
        timing: the durations of the streams.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        installation: Installation,
        bus: WakeBus,
        records: LoopRecords | None = None,
        timing: Timing = DEFAULT,
    ) -> None:
        self.gauges = Gauges()
        self._timing = timing
        self._installation = installation
        self._idle = settings.stream_idle
        self._routes = Routes(
            max_events=settings.stream_queue_events,
            max_characters=settings.stream_queue_bytes,
            gauges=self.gauges,
        )
        self._tail = Tail(database=database, routes=self._routes, gauges=self.gauges, timing=timing)
        # The other half of the connections is for the tail and for unary calls.
        self._history = History(database=database, readers=max(1, settings.database_pool_size // 2))
        log_wake = bus.subscribe(*LogTail.topics)
        self._log_tail = LogTail(database=database, wake=log_wake, timing=timing)
        self._overviews = Overviews(
            database=database,
            routes=self._routes,
            tail=self._tail,
            gauges=self.gauges,
            bus=bus,
            timing=timing,
        )
        wake = bus.subscribe(*Leases.topics)
        self._leases = Leases(
            database=database,
            bus=bus,
            wake=wake,
            max_acquiring=max(1, settings.database_pool_size // 4),
            timing=timing,
        )
        retries = loop.Timing(retry=timing.retry, patience=timing.patience)
        self._tail_runner = LoopRunner(
            self._tail, wake=bus.subscribe(*Tail.topics), timing=retries, records=records
        )
        self._log_tail_runner = LoopRunner(
            self._log_tail, wake=log_wake, timing=retries, records=records
        )
        self._leases_runner = LoopRunner(self._leases, wake=wake, timing=retries, records=records)

    async def start(self) -> None:
        """Run the tails and the leases in the background."""
        self._tail_runner.start()
        self._log_tail_runner.start()
        self._leases_runner.start()

    async def stop(self) -> None:
        """End every stream with ShuttingDown, then stop the tails and the leases."""
        self._routes.close(ShuttingDown())
        await self._overviews.stop()
        await self._leases.end(ShuttingDown())
        await self._leases_runner.stop(within=self._timing.stop)
        await self._log_tail_runner.stop()
        await self._tail_runner.stop()

    @property
    def lag(self) -> float:
        """The age of the oldest unsent event in seconds. Any thread may read it."""
        oldest = self._routes.oldest()
        return 0.0 if oldest is None else max(0.0, self.gauges.clock.now() - oldest)

    def watch_job(
        self, tenant: str, job_id: JobId, after_seq: int, *, idle: float | None = None
    ) -> AsyncGenerator[list[JobEvent], None]:
        """Follow the events of a job after `after_seq` until the job has ended.

        The caller must close the generator if it stops early.

        Args:
            tenant: the tenant of the job.
            job_id: the job to follow.
            after_seq: the number of the last event that the client has seen; 0 for none.
            idle: longest time without a list, in seconds; None for the default.

        Returns:
            Lists of events, in order and without a gap, each small enough for a message. An empty
            list is a mark: no event arrived for a while.

        Raises:
            JobNotFound: the tenant has no such job.
            Unavailable: PostgreSQL cannot be read.
            ShuttingDown: the gateway is shutting down.
        """
        stream = JobStream(
            tenant=tenant,
            job_id=job_id,
            after_seq=after_seq,
            tail=self._tail,
            routes=self._routes,
            history=self._history,
            gauges=self.gauges,
            idle=idle or self._idle,
        )
        return stream.run()

    def watch_job_logs(
        self, tenant: str, job_id: JobId, after: LogPosition, *, idle: float | None = None
    ) -> AsyncGenerator[LogUpdate, None]:
        """Follow the log lines of a job after a position until the job has ended.

        The caller must close the generator if it stops early.

        Args:
            tenant: the tenant of the job.
            job_id: the job to follow.
            after: the position of the last line that the client has seen.
            idle: longest time without a list, in seconds; None for the default.

        Returns:
            Lines, in order, and marks.

        Raises:
            JobNotFound: the tenant has no such job.
            Unavailable: PostgreSQL cannot be read.
            ShuttingDown: the gateway is shutting down.
        """
        stream = LogStream(
            tenant=tenant,
            job_id=job_id,
            after=after,
            tail=self._tail,
            log_tail=self._log_tail,
            routes=self._routes,
            history=self._history,
            gauges=self.gauges,
            idle=idle or self._idle,
        )
        return stream.run()

    def watch_jobs(
        self, tenant: str, job_filter: JobFilter, cursor: str, *, idle: float | None = None
    ) -> AsyncGenerator[WatchPage, None]:
        """Follow the settled events of all jobs that match, after a cursor.

        The caller must close the generator if it stops early.

        Args:
            tenant: the tenant of the jobs.
            job_filter: selects the jobs.
            cursor: the cursor of the last page that the client has seen; empty to start now.
            idle: longest time without a page, in seconds; None for the default.

        Returns:
            Pages of events, in order per job, and marks.

        Raises:
            CursorInvalid: the cursor is malformed, or belongs to another database or tenant.
            CursorExpired: events after the cursor were pruned.
            Unavailable: PostgreSQL cannot be read.
            ShuttingDown: the gateway is shutting down.
        """
        stream = self._filter_stream(
            tenant,
            job_filter,
            decode_cursor(self._installation, tenant, cursor) if cursor else None,
            partial(_write_cursor, self._installation, tenant),
            idle,
        )
        return stream.run()

    def watch_subscription(
        self, tenant: str, name: str, consumer: str, *, idle: float | None = None
    ) -> AsyncGenerator[WatchPage, None]:
        """Follow the unacknowledged settled events of a subscription.

        The caller must close the generator if it stops early.

        Args:
            tenant: the tenant of the subscription.
            name: the name of the subscription.
            consumer: the consumer of the watch; empty for an anonymous consumer.
            idle: longest time without a page, in seconds; None for the default.

        Returns:
            Pages of events, in order per job, and marks. The client acknowledges their cursors.

        Raises:
            SubscriptionNotFound: no subscription has this name, or it was deleted.
            SubscriptionTaken: another consumer or a newer watch of this consumer has taken over.
            CursorExpired: unacknowledged events were pruned.
            Unavailable: PostgreSQL cannot be read.
            ShuttingDown: the gateway is shutting down.
        """

        def open_stream(acquired: AcquiredSubscription) -> FilterStream:
            return self._filter_stream(
                tenant,
                read_filter(acquired.filter),
                (acquired.xid, acquired.position),
                partial(_write_subscription_cursor, self._installation, tenant, acquired),
                idle,
            )

        stream = SubscriptionStream(
            tenant=tenant,
            name=name,
            consumer=consumer or str(uuid7()),
            leases=self._leases,
            open_stream=open_stream,
            gauges=self.gauges,
            idle=idle or self._idle,
        )
        return stream.run()

    def watch_overview(
        self, tenant: str, scope: Scope, *, interval: float, idle: float | None = None
    ) -> AsyncGenerator[Overview | None, None]:
        """Follow the overview of a tenant; see `Overviews.watch`.

        Args:
            tenant: the tenant.
            scope: restricts the jobs to queues and types.
            interval: the minimum time between two overviews, in seconds.
            idle: longest time without an item, in seconds; None for the default.
        """
        return self._overviews.watch(tenant, scope, interval=interval, idle=idle or self._idle)

    def _filter_stream(
        self,
        tenant: str,
        job_filter: JobFilter,
        after: Place | None,
        write_cursor: Callable[[Place], str],
        idle: float | None,
    ) -> FilterStream:
        return FilterStream(
            tenant=tenant,
            job_filter=job_filter,
            after=after,
            write_cursor=write_cursor,
            tail=self._tail,
            routes=self._routes,
            history=self._history,
            gauges=self.gauges,
            idle=idle or self._idle,
            progress=self._timing.progress,
        )


def _write_cursor(installation: Installation, tenant: str, place: Place) -> str:
    return encode_cursor(installation, tenant, *place)


def _write_subscription_cursor(
    installation: Installation, tenant: str, acquired: AcquiredSubscription, place: Place
) -> str:
    cursor = SubscriptionCursor(
        subscription_id=acquired.id, epoch=acquired.epoch, xid=place[0], position=place[1]
    )
    return encode_subscription_cursor(installation, tenant, cursor)
