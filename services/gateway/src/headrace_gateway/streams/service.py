"""Watching, put together: one tail, and the streams that it feeds."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial

from headrace_core.domain.errors import ShuttingDown
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.domain.job import JobEvent
from headrace_core.domain.query import JobFilter
from headrace_core.domain.subscription import Acquired
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import Place
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.store.subscriptions import read_filter
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.history import History
from headrace_gateway.streams.leases import Leases
from headrace_gateway.streams.many import FilterStream, WatchPage
from headrace_gateway.streams.routing import Routes
from headrace_gateway.streams.single import JobStream
from headrace_gateway.streams.subscription import SubscriptionStream
from headrace_gateway.streams.tail import Tail
from headrace_gateway.tokens import (
    SubscriptionCursor,
    decode_cursor,
    encode_cursor,
    encode_subscription_cursor,
)


class Watch:
    """Follows jobs: one, many, or those of a named subscription.

    Args:
        settings: where Redis is, and how large things may grow.
        database: where the events are.
        installation: signs the cursors.
        bus: receives EVENTS and SUBSCRIPTIONS.
    """

    def __init__(
        self, *, settings: Settings, database: Database, installation: Installation, bus: WakeBus
    ) -> None:
        self.gauges = Gauges()
        self._installation = installation
        self._idle = settings.stream_idle
        self._routes = Routes(
            room=settings.stream_queue_events,
            room_bytes=settings.stream_queue_bytes,
            gauges=self.gauges,
        )
        self._tail = Tail(
            database=database,
            wake=bus.subscribe(Topic.EVENTS),
            routes=self._routes,
            gauges=self.gauges,
        )
        # The tail and the unary calls keep the other half of the connections.
        self._history = History(database=database, readers=max(1, settings.database_pool_size // 2))
        self._leases = Leases(
            database=database,
            wake=bus.subscribe(Topic.SUBSCRIPTIONS),
            bus=bus,
            askers=max(1, settings.database_pool_size // 4),
        )

    async def start(self) -> None:
        """Read in the background."""
        await self._tail.start()
        await self._leases.start()

    async def stop(self) -> None:
        """Ends every stream with ShuttingDown, and the reading."""
        self._routes.close(ShuttingDown())
        await self._leases.stop(ShuttingDown())
        await self._tail.stop()

    @property
    def lag(self) -> float:
        """For how many seconds the slowest stream has not sent what it was handed.

        It may be asked in any thread.
        """
        oldest = self._routes.oldest()
        return 0.0 if oldest is None else max(0.0, self.gauges.clock.now() - oldest)

    def watch_job(
        self, tenant: str, job_id: JobId, after_seq: int, *, idle: float | None = None
    ) -> AsyncGenerator[list[JobEvent], None]:
        """The events of a job behind `after_seq`, then each as it happens, until it has ended.

        Whoever breaks off must close the generator.

        Args:
            tenant: whose job it is.
            job_id: the job.
            after_seq: the number of the last event seen; 0 for none.
            idle: the longest time without a list, in seconds; None: that of the settings.

        Returns:
            Lists of events, in order and without a gap, each small enough for a message. An empty
            one is a mark: nothing has happened for a while.

        Raises:
            JobNotFound: the tenant has no such job.
            Unavailable: PostgreSQL cannot be read.
            ShuttingDown: the gateway shuts down.
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

    def watch_jobs(
        self, tenant: str, job_filter: JobFilter, cursor: str, *, idle: float | None = None
    ) -> AsyncGenerator[WatchPage, None]:
        """The events of all jobs that match, behind a cursor, then each as it settles, for ever.

        Whoever breaks off must close the generator.

        Args:
            tenant: whose jobs.
            job_filter: which of them.
            cursor: of the last page seen; empty for now.
            idle: the longest time without a page, in seconds; None: that of the settings.

        Returns:
            Pages of events, in order per job, and marks.

        Raises:
            CursorInvalid: the cursor is malformed, or of another database or tenant.
            CursorExpired: events behind the cursor were pruned.
            Unavailable: PostgreSQL cannot be read.
            ShuttingDown: the gateway shuts down.
        """
        stream = self._follow(
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
        """What is not acknowledged of a subscription, then each event as it settles, for ever.

        Whoever breaks off must close the generator.

        Args:
            tenant: whose subscription it is.
            name: the subscription.
            consumer: who watches; empty for a consumer of this call's own.
            idle: the longest time without a page, in seconds; None: that of the settings.

        Returns:
            Pages of events, in order per job, and marks. Their cursors are to be acknowledged.

        Raises:
            SubscriptionNotFound: there is none of this name, or it was deleted.
            SubscriptionTaken: another consumer has taken over, or a newer watch of the same one.
            CursorExpired: events that were not acknowledged were pruned.
            Unavailable: PostgreSQL cannot be read.
            ShuttingDown: the gateway shuts down.
        """

        def follow(acquired: Acquired) -> FilterStream:
            return self._follow(
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
            follow=follow,
            gauges=self.gauges,
            idle=idle or self._idle,
        )
        return stream.run()

    def _follow(
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
        )


def _write_cursor(installation: Installation, tenant: str, place: Place) -> str:
    return encode_cursor(installation, tenant, *place)


def _write_subscription_cursor(
    installation: Installation, tenant: str, acquired: Acquired, place: Place
) -> str:
    cursor = SubscriptionCursor(
        subscription_id=acquired.id, epoch=acquired.epoch, xid=place[0], position=place[1]
    )
    return encode_subscription_cursor(installation, tenant, cursor)
