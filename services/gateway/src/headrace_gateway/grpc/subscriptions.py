"""SubscriptionService: each method converts its request, calls a use case, converts the result."""

# ruff: noqa: N802 - the methods have the names of the contract

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from headrace.v1 import subscription_service_pb2 as messages
from headrace_gateway.api.subscriptions import Subscriptions
from headrace_gateway.api.validation import Violations
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.decode import read_encoding, read_idle_interval, read_job_filter
from headrace_gateway.grpc.encode import WATCH_MARKS, subscription_message, write_events
from headrace_gateway.grpc.pages import MessagePage


class SubscriptionServicer:
    """Manages named subscriptions, streams them and receives their acknowledgements.

    Args:
        subscriptions: the use cases.
    """

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions

    async def CreateSubscription(
        self, request: messages.CreateSubscriptionRequest, call: Call
    ) -> messages.CreateSubscriptionResponse:
        """Create a subscription, or return the existing one."""
        found = Violations()
        job_filter = read_job_filter(request.filter, found)
        subscription, created = await self._subscriptions.create(
            call, request.name, job_filter, cursor=request.cursor, violations=found
        )
        return messages.CreateSubscriptionResponse(
            subscription=subscription_message(subscription), created=created
        )

    async def GetSubscription(
        self, request: messages.GetSubscriptionRequest, call: Call
    ) -> messages.GetSubscriptionResponse:
        """Return a subscription."""
        subscription = await self._subscriptions.get(call, request.name)
        return messages.GetSubscriptionResponse(subscription=subscription_message(subscription))

    async def ListSubscriptions(
        self, request: messages.ListSubscriptionsRequest, call: Call
    ) -> messages.ListSubscriptionsResponse:
        """List subscriptions, sorted by name."""
        page = MessagePage(subscription_message)
        token = await self._subscriptions.list(
            call, page, size=request.page_size, token=request.page_token
        )
        return messages.ListSubscriptionsResponse(
            subscriptions=page.messages, next_page_token=token
        )

    async def DeleteSubscription(
        self, request: messages.DeleteSubscriptionRequest, call: Call
    ) -> messages.DeleteSubscriptionResponse:
        """Delete a subscription; its watches end."""
        await self._subscriptions.delete(call, request.name)
        return messages.DeleteSubscriptionResponse()

    async def WatchSubscription(
        self, request: messages.WatchSubscriptionRequest, call: Call
    ) -> AsyncGenerator[messages.WatchSubscriptionResponse, None]:
        """Send the unacknowledged events, then each event when it settles."""
        found = Violations()
        encoding = read_encoding(request.data_encoding, found)
        stream = self._subscriptions.watch(
            call,
            request.name,
            consumer=request.consumer,
            idle=read_idle_interval(request),
            violations=found,
        )
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
        """Acknowledge all events up to a cursor."""
        await self._subscriptions.acknowledge(call, request.name, cursor=request.cursor)
        return messages.AckSubscriptionResponse()
