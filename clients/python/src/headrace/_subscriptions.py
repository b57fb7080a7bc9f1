"""The calls of named subscriptions, which are a part of the client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping

from headrace._calls import Calls
from headrace._convert import from_subscription, to_filter
from headrace.job import JobState
from headrace.subscription import Subscription
from headrace.subscription_watch import SubscriptionWatch
from headrace.v1 import subscription_service_pb2


class SubscriptionCalls:
    """Creates, shows, deletes and receives named subscriptions.

    A named subscription is a watch of many jobs whose place the server keeps: every event that
    matches is sent until it is acknowledged. Replicas of a service share one, of which one receives
    at a time and the others stand by.
    """

    _calls: Calls

    async def create_subscription(
        self,
        name: str,
        *,
        queues: Iterable[str] = (),
        types: Iterable[str] = (),
        states: Iterable[JobState | str] = (),
        labels: Mapping[str, str] | None = None,
        batch_id: str = "",
        job_ids: Iterable[str] = (),
        cursor: str | None = None,
    ) -> Subscription:
        """Creates a subscription; the same name with the same filter again changes nothing.

        So a service may do it whenever it starts. `created` of the result tells whether it is new.

        Args:
            name: 1 to 100 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or a digit.
            queues: any of these queues.
            types: any of these types.
            states: events that lead to any of these states.
            labels: all of these labels.
            batch_id: this batch.
            job_ids: any of these jobs; at most 10,000.
            cursor: where it begins, a `Watch.cursor`. None: now.

        Raises:
            ValueError: one of `states` is no state.
            SubscriptionConflict: the name has another filter.
            CursorExpired: events behind the cursor are not kept any more.
        """
        request = subscription_service_pb2.CreateSubscriptionRequest(
            name=name,
            filter=to_filter(
                queues=queues,
                types=types,
                states=states,
                labels=labels,
                batch_id=batch_id,
                job_ids=job_ids,
            ),
            cursor=cursor or "",
        )
        response = await self._calls.unary(
            lambda gateway: gateway.subscriptions.CreateSubscription, request
        )
        return from_subscription(response.subscription, created=response.created)

    async def subscription(self, name: str) -> Subscription:
        """A subscription as it is now.

        Raises:
            SubscriptionNotFound: there is none of this name.
        """
        request = subscription_service_pb2.GetSubscriptionRequest(name=name)
        response = await self._calls.unary(
            lambda gateway: gateway.subscriptions.GetSubscription, request
        )
        return from_subscription(response.subscription)

    async def subscriptions(self, *, page_size: int = 0) -> AsyncGenerator[Subscription, None]:
        """Yields all subscriptions by name, page by page.

        Args:
            page_size: how many are asked for at a time; 0 is the server's default.
        """
        request = subscription_service_pb2.ListSubscriptionsRequest(page_size=page_size)
        while True:
            page = await self._calls.unary(
                lambda gateway: gateway.subscriptions.ListSubscriptions, request
            )
            for message in page.subscriptions:
                yield from_subscription(message)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete_subscription(self, name: str) -> None:
        """Deletes a subscription; who receives it is told that it is not found.

        Raises:
            SubscriptionNotFound: there is none of this name.
        """
        request = subscription_service_pb2.DeleteSubscriptionRequest(name=name)
        await self._calls.unary(lambda gateway: gateway.subscriptions.DeleteSubscription, request)

    async def ack_subscription(self, name: str, cursor: str) -> None:
        """Acknowledges everything up to a cursor, from outside of `subscribe`.

        Args:
            name: the subscription.
            cursor: a `SubscriptionWatch.cursor`; or the `oldest_cursor` of a `CursorExpired`, which
                gives up what is not kept any more, so that the subscription goes on behind it.

        Raises:
            SubscriptionNotFound: there is none of this name.
            SubscriptionTaken: another consumer receives it now.
        """
        request = subscription_service_pb2.AckSubscriptionRequest(name=name, cursor=cursor)
        await self._calls.unary(lambda gateway: gateway.subscriptions.AckSubscription, request)

    def subscribe(self, name: str, *, consumer: str | None = None) -> SubscriptionWatch:
        """Receives a subscription; see `SubscriptionWatch`.

        Args:
            name: the subscription.
            consumer: names this replica, at most 128 printable characters, and nobody else: a
                second one of the same name replaces this one. With a name that stays, a process
                that starts again receives at once. None: one of its own.
        """
        return SubscriptionWatch(self._calls, name=name, consumer=consumer)
