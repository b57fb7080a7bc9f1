"""The client's subscription calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping

from headrace._calls import Calls
from headrace._convert import from_subscription, to_filter
from headrace.job import JobState
from headrace.subscription import Subscription
from headrace.subscription_watch import SubscriptionWatch
from headrace.v1 import subscription_service_pb2


class SubscriptionCalls:
    """The client's calls for named subscriptions.

    A subscription is a watch of many jobs with a stored position: the server resends matching
    events until they are acknowledged. Replicas of a service can share a subscription: one replica
    receives the events, and all others wait on standby.
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
        """Create a subscription; repeating the call with the same filter changes nothing.

        A service can therefore call this at every start. The result's `created` is True if the
        subscription is new.

        Args:
            name: 1 to 100 characters of a-z, 0-9, `.`, `_` and `-`; the first is a letter or a
                digit.
            queues: match these queues.
            types: match these job types.
            states: match events that lead to these states.
            labels: require all these labels.
            batch_id: match this batch.
            job_ids: match these jobs, at most 10,000.
            cursor: start after this `Watch.cursor`. None: start now.

        Raises:
            ValueError: `states` contains a value that is not a job state.
            SubscriptionConflict: the subscription exists with a different filter.
            CursorExpired: events after the cursor were deleted.
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
        """Return a subscription.

        Raises:
            SubscriptionNotFound: the subscription does not exist.
        """
        request = subscription_service_pb2.GetSubscriptionRequest(name=name)
        response = await self._calls.unary(
            lambda gateway: gateway.subscriptions.GetSubscription, request
        )
        return from_subscription(response.subscription)

    async def subscriptions(self, *, page_size: int = 0) -> AsyncGenerator[Subscription, None]:
        """Yield all subscriptions in name order, page by page.

        Args:
            page_size: maximum number of subscriptions on a page; 0 for the server default.
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
        """Delete a subscription; its consumer receives SubscriptionNotFound.

        Raises:
            SubscriptionNotFound: the subscription does not exist.
        """
        request = subscription_service_pb2.DeleteSubscriptionRequest(name=name)
        await self._calls.unary(lambda gateway: gateway.subscriptions.DeleteSubscription, request)

    async def ack_subscription(self, name: str, cursor: str) -> None:
        """Acknowledge all events up to a cursor, without `subscribe`.

        Args:
            name: the name of the subscription.
            cursor: a `SubscriptionWatch.cursor`, or the `oldest_cursor` of a `CursorExpired`. The
                latter skips deleted events, and the subscription continues after them.

        Raises:
            SubscriptionNotFound: the subscription does not exist.
            SubscriptionTaken: another consumer holds the subscription.
        """
        request = subscription_service_pb2.AckSubscriptionRequest(name=name, cursor=cursor)
        await self._calls.unary(lambda gateway: gateway.subscriptions.AckSubscription, request)

    def subscribe(self, name: str, *, consumer: str | None = None) -> SubscriptionWatch:
        """Receive the events of a subscription; see `SubscriptionWatch`.

        Args:
            name: the name of the subscription.
            consumer: the unique name of this replica, at most 128 printable characters. A second
                consumer with the same name replaces the first. With a constant name, a restarted
                process receives events at once. None: a unique name.
        """
        return SubscriptionWatch(self._calls, name=name, consumer=consumer)
