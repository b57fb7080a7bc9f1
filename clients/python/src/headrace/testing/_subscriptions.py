"""SubscriptionService of a fake gateway."""

# ruff: noqa: ARG002, N802  # the methods of a service have the names and arguments of its RPCs

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from headrace.errors import CallError, Refusal
from headrace.testing._jobs import MAX_EVENTS, Jobs, invalid
from headrace.testing._services import (
    check_cursor,
    check_filter,
    chunks,
    is_name,
    page,
    wait_for_change,
)
from headrace.v1 import job_service_pb2
from headrace.v1 import subscription_service_pb2 as pb
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceServicer


@dataclass
class StoredSubscription:
    """A subscription with its position and its consumer.

    `watch` is the stream that receives the events, or None. `epoch` changes with the consumer, and
    invalidates the cursors of earlier consumers.
    """

    message: pb.Subscription
    position: int
    consumer: str = ""
    epoch: int = 0
    watch: object = None


class SubscriptionService(SubscriptionServiceServicer):
    """Serves the subscriptions of a fake gateway.

    Args:
        jobs: the jobs whose events are sent.
        interval: returns the interval between IDLE marks that a stream requests, in seconds.

    Attributes:
        by_name: the subscriptions by name.
        max_events: the maximum number of events in a message.
    """

    def __init__(self, jobs: Jobs, interval: Callable[[Any], float]) -> None:
        self.by_name: dict[str, StoredSubscription] = {}
        self.max_events = MAX_EVENTS
        self._jobs = jobs
        self._interval = interval

    async def CreateSubscription(
        self, request: pb.CreateSubscriptionRequest, context: Any
    ) -> pb.CreateSubscriptionResponse:
        if not is_name(request.name):
            raise invalid(("name", "must be 1 to 100 characters of a-z, 0-9, `_`, `-`, `.`"))
        check_filter(request.filter)
        old = self.by_name.get(request.name)
        if old is None:
            message = pb.Subscription(name=request.name, filter=request.filter)
            message.create_time.GetCurrentTime()
            self.by_name[request.name] = StoredSubscription(
                message, check_cursor(self._jobs, request.cursor)
            )
        elif old.message.filter != request.filter:
            text = f"subscription {request.name!r} has a different filter"
            raise _error("ALREADY_EXISTS", "SUBSCRIPTION_CONFLICT", request.name, text)
        return pb.CreateSubscriptionResponse(
            subscription=self._subscription_message(self.by_name[request.name]), created=old is None
        )

    async def GetSubscription(
        self, request: pb.GetSubscriptionRequest, context: Any
    ) -> pb.GetSubscriptionResponse:
        return pb.GetSubscriptionResponse(
            subscription=self._subscription_message(self._find(request.name))
        )

    async def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, context: Any
    ) -> pb.ListSubscriptionsResponse:
        found, token = page(request, dict(sorted(self.by_name.items())))
        return pb.ListSubscriptionsResponse(
            subscriptions=map(self._subscription_message, found), next_page_token=token
        )

    async def DeleteSubscription(
        self, request: pb.DeleteSubscriptionRequest, context: Any
    ) -> pb.DeleteSubscriptionResponse:
        self._find(request.name)
        del self.by_name[request.name]
        self._jobs.notify()
        return pb.DeleteSubscriptionResponse()

    async def AckSubscription(
        self, request: pb.AckSubscriptionRequest, context: Any
    ) -> pb.AckSubscriptionResponse:
        epoch, _, position = request.cursor.partition(":")
        known = epoch == "oldest" or epoch.isdecimal()
        if not known or not position.isdecimal() or int(position) > len(self._jobs.log):
            rule = "must be a cursor of this subscription"
            raise invalid(("cursor", rule), reason="CURSOR_INVALID")
        subscription = self._find(request.name)
        if epoch not in {"oldest", str(subscription.epoch)}:
            raise _taken_error(request.name)
        subscription.position = max(subscription.position, int(position))
        subscription.message.ack_time.GetCurrentTime()
        self._jobs.notify()
        return pb.AckSubscriptionResponse()

    async def WatchSubscription(
        self, request: pb.WatchSubscriptionRequest, context: Any
    ) -> AsyncIterator[pb.WatchSubscriptionResponse]:
        idle = self._interval(request)
        subscription = self._find(request.name)
        watch = object()
        try:
            async for response in self._standby(request, subscription, idle):
                yield response
            self._acquire(subscription, request.consumer or str(uuid4()), watch)
            async for response in self._receive(request.name, subscription, watch, idle):
                yield response
        finally:
            if subscription.watch is watch:
                subscription.watch = None
                self._jobs.notify()

    async def _standby(
        self, request: pb.WatchSubscriptionRequest, subscription: StoredSubscription, idle: float
    ) -> AsyncIterator[pb.WatchSubscriptionResponse]:
        while subscription.watch is not None and subscription.consumer != request.consumer:
            self._find(request.name)
            changed = self._jobs.changed
            yield pb.WatchSubscriptionResponse(mark=job_service_pb2.WATCH_MARK_STANDBY)
            while subscription.watch is not None and await wait_for_change(idle, changed):
                changed = self._jobs.changed

    def _acquire(self, subscription: StoredSubscription, consumer: str, watch: object) -> None:
        if subscription.consumer != consumer:
            subscription.epoch += 1
        subscription.consumer, subscription.watch = consumer, watch
        self._jobs.notify()

    async def _receive(
        self, name: str, subscription: StoredSubscription, watch: object, idle: float
    ) -> AsyncIterator[pb.WatchSubscriptionResponse]:
        self._jobs.check_pruned(subscription.position, f"oldest:{self._jobs.pruned}")
        place = subscription.position
        mark = job_service_pb2.WATCH_MARK_CAUGHT_UP
        while True:
            changed = self._jobs.changed
            self._find(name)
            if subscription.watch is not watch:
                raise _taken_error(name)
            found = list(self._jobs.matching(place, subscription.message.filter))
            place = len(self._jobs.log)
            for part in chunks(found, self.max_events):
                yield pb.WatchSubscriptionResponse(
                    events=[event for _, event in part],
                    cursor=f"{subscription.epoch}:{part[-1][0]}",
                )
            if place < len(self._jobs.log):
                # The mark follows the events that were logged during a send.
                continue
            if mark:
                yield pb.WatchSubscriptionResponse(
                    cursor=f"{subscription.epoch}:{place}", mark=mark
                )
            mark = job_service_pb2.WATCH_MARK_UNSPECIFIED
            if place == len(self._jobs.log) and not await wait_for_change(idle, changed):
                mark = job_service_pb2.WATCH_MARK_IDLE

    def _find(self, name: str) -> StoredSubscription:
        if name not in self.by_name:
            text = f"subscription {name!r} does not exist; create it first"
            raise _error("NOT_FOUND", "SUBSCRIPTION_NOT_FOUND", name, text)
        return self.by_name[name]

    def _subscription_message(self, subscription: StoredSubscription) -> pb.Subscription:
        message = pb.Subscription()
        message.CopyFrom(subscription.message)
        message.consumer = subscription.consumer if subscription.watch is not None else ""
        if subscription.position < len(self._jobs.log):
            now = Timestamp()
            now.GetCurrentTime()
            oldest = self._jobs.log[subscription.position].event_time
            message.lag.FromNanoseconds(now.ToNanoseconds() - oldest.ToNanoseconds())
        return message


def _taken_error(name: str) -> CallError:
    text = f"another watch has taken over subscription {name!r}; watch it again"
    return _error("ABORTED", "SUBSCRIPTION_TAKEN", name, text)


def _error(code: str, reason: str, name: str, message: str) -> CallError:
    metadata = {"subscription": name}
    return CallError(Refusal(code=code, reason=reason, message=message, metadata=metadata))
