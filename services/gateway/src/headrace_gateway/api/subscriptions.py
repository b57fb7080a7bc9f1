"""Subscriptions: create, read, watch, acknowledge and delete them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import structlog

from headrace_core.domain.errors import (
    CursorExpired,
    PermissionDenied,
    SubscriptionNotFound,
    Violation,
)
from headrace_core.domain.query import JobFilter
from headrace_core.domain.subscription import Subscription
from headrace_core.store.event_log import Place, read_end
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.store.subscriptions import (
    StartsTooEarly,
    acknowledge,
    create_subscription,
    delete_subscription,
    get_subscription,
    list_subscriptions,
)
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.audit import record_audit
from headrace_gateway.api.pages import Page, fill_page, split_page
from headrace_gateway.api.validation import (
    Violations,
    check_consumer,
    check_idle_interval,
    check_subscription_name,
    page_limit,
)
from headrace_gateway.api.visibility import visible_pages
from headrace_gateway.calls.call import Call
from headrace_gateway.streams import Watch, WatchPage
from headrace_gateway.tokens import (
    decode_cursor,
    decode_name_token,
    decode_subscription_cursor,
    encode_cursor,
    encode_name_token,
)

_log = structlog.get_logger()

# The maximum number of subscriptions that one statement reads, since each can name many jobs.
_MAX_SUBSCRIPTIONS_READ: Final = 16


class Subscriptions:
    """The use cases of subscriptions.

    Methods report `violations`, which the transport found in the rest of the request, together
    with their own.

    Args:
        database: stores the subscriptions.
        installation: signs cursors and page tokens.
        bus: wakes other gateways when a subscription is deleted.
        watch: the streams.
        max_subscriptions: the maximum number of subscriptions of a tenant.
    """

    def __init__(
        self,
        *,
        database: Database,
        installation: Installation,
        bus: WakeBus,
        watch: Watch,
        max_subscriptions: int,
    ) -> None:
        self._database = database
        self._installation = installation
        self._bus = bus
        self._watch = watch
        self._max_subscriptions = max_subscriptions

    async def create(
        self,
        call: Call,
        name: str,
        job_filter: JobFilter,
        *,
        cursor: str = "",
        violations: Sequence[Violation] = (),
    ) -> tuple[Subscription, bool]:
        """Create a subscription, or return the existing one.

        Args:
            call: the context of the request.
            name: the name, unique within the tenant.
            job_filter: selects the jobs whose events the subscription receives.
            cursor: the place to start after; empty to start now.
            violations: see the class.

        Returns:
            The subscription, and True if it is new.

        Raises:
            InvalidRequest: the name or the cursor is invalid.
            PermissionDenied: the filter selects jobs outside of the caller's scope.
            CursorExpired: events after the cursor were pruned.
            SubscriptionConflict: the subscription exists with a different filter.
            TooManySubscriptions: the tenant already has the maximum number of subscriptions.
        """
        found = Violations(violations)
        check_subscription_name(name, found)
        after: Place | None = None
        if cursor:
            with found.collecting():
                after = decode_cursor(self._installation, call.tenant, cursor)
        found.check()
        if not call.principal.scope.covers_filter(job_filter):
            raise PermissionDenied("the jobs of this filter")
        async with self._database.statement() as conn:
            end = await read_end(conn)
        try:
            async with self._database.transaction() as conn:
                subscription, created = await create_subscription(
                    conn,
                    tenant=call.tenant,
                    name=name,
                    job_filter=job_filter,
                    after=after,
                    end=end.settled,
                    maximum=self._max_subscriptions,
                )
                if created:
                    await record_audit(conn, call, target=f"subscription {name}")
        except StartsTooEarly as early:
            oldest = encode_cursor(self._installation, call.tenant, *early.start)
            raise CursorExpired(oldest) from None
        if created:
            _log.info("subscription_created", subscription=name)
        return subscription, created

    async def get(self, call: Call, name: str) -> Subscription:
        """Return a subscription.

        Raises:
            InvalidRequest: the name is invalid.
            SubscriptionNotFound: the tenant has no such subscription.
        """
        _check_name(name)
        async with self._database.statement() as conn:
            subscription = await get_subscription(conn, tenant=call.tenant, name=name)
        if not _is_visible(call, subscription):
            raise SubscriptionNotFound(name)
        return subscription

    async def list(
        self, call: Call, page: Page[Subscription], *, size: int = 0, token: str = ""
    ) -> str:
        """Fill a page with the tenant's subscriptions, sorted by name.

        Args:
            call: the context of the request.
            page: receives the subscriptions.
            size: the maximum number of subscriptions on the page; 0 for the default.
            token: the page token; empty for the first page.

        Returns:
            The token of the next page; empty after the last page.

        Raises:
            InvalidRequest: the size or the token is invalid.
        """
        found = Violations()
        limit = page_limit(size, found)
        found.check()

        async def read(after: str, wanted: int) -> tuple[Sequence[Subscription], bool]:
            while True:
                found_subscriptions = await list_subscriptions(
                    conn, tenant=call.tenant, after=after, limit=wanted + 1
                )
                subscriptions, complete = split_page(found_subscriptions, wanted)
                visible = [found for found in subscriptions if _is_visible(call, found)]
                if visible or complete:
                    return visible, complete
                after = subscriptions[-1].name

        after = decode_name_token(self._installation, call.tenant, token)
        async with self._database.statement() as conn:
            last = await fill_page(
                page, read, key=_name_of, after=after, size=limit, step=_MAX_SUBSCRIPTIONS_READ
            )
        return encode_name_token(self._installation, call.tenant, last) if last else ""

    async def delete(self, call: Call, name: str) -> None:
        """Delete a subscription; its watches end.

        Raises:
            InvalidRequest: the name is invalid.
            SubscriptionNotFound: the tenant has no such subscription.
        """
        _check_name(name)
        async with self._database.transaction() as conn:
            await self._check_visible(conn, call, name)
            await delete_subscription(conn, tenant=call.tenant, name=name)
            await record_audit(conn, call, target=f"subscription {name}")
        self._bus.publish(Topic.SUBSCRIPTIONS)
        _log.info("subscription_deleted", subscription=name)

    def watch(
        self,
        call: Call,
        name: str,
        *,
        consumer: str = "",
        idle: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> AsyncGenerator[WatchPage, None]:
        """Return the stream of a subscription; see `Watch.watch_subscription`.

        Args:
            call: the context of the request.
            name: the name of the subscription.
            consumer: the name of the consumer; empty for an anonymous consumer.
            idle: the longest time without a page, in seconds; None for the default.
            violations: see the class.

        Raises:
            InvalidRequest: the name, the consumer or the interval is invalid.
        """
        found = Violations(violations)
        check_subscription_name(name, found)
        check_consumer(consumer, found)
        check_idle_interval(idle, found)
        found.check()
        stream = visible_pages(
            call, self._watch.watch_subscription(call.tenant, name, consumer, idle=idle)
        )
        if call.principal.scope.covers_all_jobs:
            return stream
        return self._within_scope(call, name, stream)

    async def _within_scope(
        self, call: Call, name: str, stream: AsyncGenerator[WatchPage, None]
    ) -> AsyncGenerator[WatchPage, None]:
        """Yield the pages of a stream, after a check that the caller may see its subscription."""
        async with aclosing(stream):
            async with self._database.statement() as conn:
                await self._check_visible(conn, call, name)
            async for page in stream:
                yield page

    async def _check_visible(self, conn: Connection, call: Call, name: str) -> None:
        """Check that a subscription is within the scope of the caller.

        Raises:
            SubscriptionNotFound: it is not, or the tenant has no such subscription.
        """
        if not call.principal.scope.covers_all_jobs and not _is_visible(
            call, await get_subscription(conn, tenant=call.tenant, name=name)
        ):
            raise SubscriptionNotFound(name)

    async def acknowledge(self, call: Call, name: str, *, cursor: str) -> None:
        """Acknowledge all events up to a cursor of the subscription.

        Raises:
            InvalidRequest: the name or the cursor is invalid.
            SubscriptionNotFound: the tenant has no such subscription.
            SubscriptionTaken: another watch acquired the subscription after the cursor was sent.
        """
        found = Violations()
        check_subscription_name(name, found)
        with found.collecting():
            sent = decode_subscription_cursor(self._installation, call.tenant, cursor)
        found.check()
        async with self._database.statement() as conn:
            await self._check_visible(conn, call, name)
            await acknowledge(
                conn,
                tenant=call.tenant,
                name=name,
                subscription_id=sent.subscription_id,
                epoch=sent.epoch,
                place=(sent.xid, sent.position),
            )


def _is_visible(call: Call, subscription: Subscription) -> bool:
    """Return whether each job of a subscription is within the scope of the caller."""
    scope = call.principal.scope
    if scope.covers_all_jobs:
        return True
    # A filter that cannot be read may select any job.
    return subscription.filter is not None and scope.covers_filter(subscription.filter)


def _name_of(subscription: Subscription) -> str:
    return subscription.name


def _check_name(name: str) -> None:
    found = Violations()
    check_subscription_name(name, found)
    found.check()
