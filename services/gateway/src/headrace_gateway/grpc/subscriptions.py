"""SubscriptionService."""

# ruff: noqa: N802 - the methods bear the contract's names

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from headrace.v1 import subscription_service_pb2 as messages
from headrace_core.domain.errors import CursorExpired
from headrace_core.store.event_log import Place, read_end
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.store.subscriptions import (
    StartsTooEarly,
    acknowledge,
    create_subscription,
    delete_subscription,
    get_subscription,
    write_filter,
)
from headrace_core.wake import Topic, Waker
from headrace_gateway.api.pages import read_subscription_page
from headrace_gateway.api.validate import check_subscription_name
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.convert import WATCH_MARKS, subscription_message, write_events
from headrace_gateway.grpc.fields import (
    Violations,
    read_consumer,
    read_encoding,
    read_idle_interval,
    read_job_filter,
    read_page_size,
)
from headrace_gateway.streams import Watch
from headrace_gateway.tokens import (
    decode_cursor,
    decode_name_token,
    decode_subscription_cursor,
    encode_cursor,
    encode_name_token,
)

_log = structlog.get_logger()


class SubscriptionServicer:
    """Keeps named subscriptions, streams them and takes their acknowledgements.

    Args:
        database: where subscriptions are.
        installation: signs cursors and page tokens.
        waker: is rung when a subscription is deleted.
        watch: streams them.
        max_subscriptions: how many a tenant may have.
    """

    def __init__(
        self,
        *,
        database: Database,
        installation: Installation,
        waker: Waker,
        watch: Watch,
        max_subscriptions: int,
    ) -> None:
        self._database = database
        self._installation = installation
        self._waker = waker
        self._watch = watch
        self._max_subscriptions = max_subscriptions

    async def CreateSubscription(
        self, request: messages.CreateSubscriptionRequest, call: Call
    ) -> messages.CreateSubscriptionResponse:
        """Creates a subscription, or finds it."""
        tenant = call.tenant
        found = Violations()
        check_subscription_name(request.name, found)
        job_filter = read_job_filter(request.filter, found)
        after: Place | None = None
        if request.cursor:
            with found.gathering():
                after = decode_cursor(self._installation, tenant, request.cursor)
        found.check()
        async with self._database.statement() as conn:
            end = await read_end(conn)
        try:
            async with self._database.transaction() as conn:
                subscription, created = await create_subscription(
                    conn,
                    tenant=tenant,
                    name=request.name,
                    job_filter=write_filter(job_filter),
                    after=after,
                    end=end.settled,
                    maximum=self._max_subscriptions,
                )
        except StartsTooEarly as early:
            raise CursorExpired(encode_cursor(self._installation, tenant, *early.start)) from None
        if created:
            _log.info("subscription_created", subscription=request.name)
        return messages.CreateSubscriptionResponse(
            subscription=subscription_message(subscription), created=created
        )

    async def GetSubscription(
        self, request: messages.GetSubscriptionRequest, call: Call
    ) -> messages.GetSubscriptionResponse:
        """A subscription as it is now."""
        _check_name(request.name)
        async with self._database.statement() as conn:
            subscription = await get_subscription(conn, tenant=call.tenant, name=request.name)
        return messages.GetSubscriptionResponse(subscription=subscription_message(subscription))

    async def ListSubscriptions(
        self, request: messages.ListSubscriptionsRequest, call: Call
    ) -> messages.ListSubscriptionsResponse:
        """A page of subscriptions."""
        tenant = call.tenant
        found = Violations()
        page_size = read_page_size(request.page_size, found)
        found.check()
        after = decode_name_token(self._installation, tenant, request.page_token)
        subscriptions, last = await read_subscription_page(
            self._database, tenant=tenant, after=after, page_size=page_size
        )
        return messages.ListSubscriptionsResponse(
            subscriptions=subscriptions,
            next_page_token=encode_name_token(self._installation, tenant, last) if last else "",
        )

    async def DeleteSubscription(
        self, request: messages.DeleteSubscriptionRequest, call: Call
    ) -> messages.DeleteSubscriptionResponse:
        """Deletes a subscription; its watches end."""
        _check_name(request.name)
        async with self._database.statement() as conn:
            await delete_subscription(conn, tenant=call.tenant, name=request.name)
        self._waker.ring(Topic.SUBSCRIPTIONS)
        _log.info("subscription_deleted", subscription=request.name)
        return messages.DeleteSubscriptionResponse()

    async def WatchSubscription(
        self, request: messages.WatchSubscriptionRequest, call: Call
    ) -> AsyncGenerator[messages.WatchSubscriptionResponse, None]:
        """What is not acknowledged, then each event as it settles."""
        tenant = call.tenant
        found = Violations()
        check_subscription_name(request.name, found)
        consumer = read_consumer(request.consumer, found)
        encoding = read_encoding(request.data_encoding, found)
        idle = read_idle_interval(request, found)
        found.check()
        stream = self._watch.watch_subscription(tenant, request.name, consumer, idle=idle)
        async with aclosing(stream) as pages:
            async for page in pages:
                response = messages.WatchSubscriptionResponse(
                    cursor=page.cursor, mark=WATCH_MARKS[page.mark]
                )
                write_events(page.events, response.events, encoding)
                yield response

    async def AckSubscription(
        self, request: messages.AckSubscriptionRequest, call: Call
    ) -> messages.AckSubscriptionResponse:
        """Acknowledges everything up to a cursor."""
        tenant = call.tenant
        found = Violations()
        check_subscription_name(request.name, found)
        with found.gathering():
            cursor = decode_subscription_cursor(self._installation, tenant, request.cursor)
        found.check()
        async with self._database.statement() as conn:
            await acknowledge(
                conn,
                tenant=tenant,
                name=request.name,
                subscription_id=cursor.subscription_id,
                epoch=cursor.epoch,
                place=(cursor.xid, cursor.position),
            )
        return messages.AckSubscriptionResponse()


def _check_name(name: str) -> None:
    found = Violations()
    check_subscription_name(name, found)
    found.check()
