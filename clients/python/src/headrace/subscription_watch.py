"""The stream of a subscription and its acknowledgments."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from grpc import aio

from headrace._calls import Calls
from headrace._convert import JSON
from headrace._event_stream import EventStream, Response
from headrace._gateways import Gateway
from headrace._headers import Metadata
from headrace.errors import CallError, SubscriptionTaken
from headrace.v1 import job_service_pb2, subscription_service_pb2

_MAX_HOST_LENGTH: Final = 80


class SubscriptionWatch(EventStream):
    """Unacknowledged and future events of a subscription.

        async with client.subscribe("billing") as events:
            async for event in events:
                handle(event)
                await events.ack()

    Each event is yielded once in this process, in order per job, even if the connection is lost. If
    the process ends, the server sends unacknowledged events again, to any consumer. To process each
    event only once, store `(job_id, seq)` together with the effect.

    Events that do not match need no `ack`.

    While another consumer receives the subscription, this consumer waits on standby. It takes over
    when the other consumer stops.

    Attributes:
        name: the name of the subscription.
        consumer: the name of this consumer.
        cursor: the place up to which the next `ack` acknowledges events; empty before the first
            event.
        caught_up: whether all past events have been yielded; later events are live.
        standby: whether this consumer waits while another consumer receives the subscription.
    """

    def __init__(self, calls: Calls, *, name: str, consumer: str | None) -> None:
        super().__init__(calls, cursor="")
        self.name = name
        self.consumer = _unique_consumer_name() if consumer is None else consumer
        self.standby = False
        self._calls = calls
        # The last acknowledged cursor, and the number of acknowledged events.
        self._acked_cursor, self._acked = "", 0
        self._taken: SubscriptionTaken | None = None
        self._handled_resumes = 0
        # True if the last response was an idle mark.
        self._idle = False
        # True if the watch may restart after it loses the subscription: once after each response.
        self._may_rejoin = False

    async def ack(self) -> bool:
        """Acknowledge the yielded events, so that no consumer receives them again.

        The server sends one event per message, or several under load, and a message is acknowledged
        as a whole. If only some events of a message have been yielded, `ack` acknowledges only the
        earlier messages. Events that have not been yielded are never acknowledged. `ack` calls the
        server only if there are new events to acknowledge, so it can be called after each event.

        Returns:
            Whether all yielded events are acknowledged now.

        Raises:
            SubscriptionTaken: another consumer has taken over and receives all unacknowledged
                events. The iteration ends with this error too.
            CallError: the call failed; it can be repeated.
        """
        self._check()
        if self.cursor != self._acked_cursor:
            try:
                await self._acknowledge()
            except SubscriptionTaken as taken:
                await self._end_with_error(taken)
                raise
        return self._acked == self._yielded

    async def wait_for_event(self) -> bool:
        """Wait for an event; return False if the watch was closed and has no more events.

        Raises:
            SubscriptionTaken: another consumer has taken over, or has the same name.
            CursorExpired: unacknowledged events were deleted.
            CallError: the stream was rejected, or could not be resumed in time.
        """
        self._check()
        return await super().wait_for_event()

    @property
    def _can_resume(self) -> bool:
        # The server stores the position.
        return True

    def _start(self, gateway: Gateway, headers: Metadata) -> aio.UnaryStreamCall[Any, Any]:
        request = subscription_service_pb2.WatchSubscriptionRequest(
            name=self.name, consumer=self.consumer, data_encoding=JSON
        )
        return gateway.subscriptions.WatchSubscription(request, metadata=headers)

    async def _receive(self) -> bool:
        try:
            received = await super()._receive()
        except SubscriptionTaken as taken:
            if self._may_rejoin and not await self._name_in_use():
                # The lease of this consumer has lapsed, so the consumer waits on standby again.
                self._may_rejoin, self.standby = False, True
                return True
            await self._end_with_error(taken)
            raise
        self._may_rejoin = True
        if self._idle:
            await self._acknowledge_unmatched()
        return received

    def _on_response(self, response: Response, *, has_new_events: bool) -> None:
        mark = response.mark
        self._idle = mark == job_service_pb2.WATCH_MARK_IDLE
        self.standby = mark == job_service_pb2.WATCH_MARK_STANDBY
        if self.standby:
            self.caught_up = False
        if self.resumes > self._handled_resumes:
            # The stream restarts after the acknowledged events, so it repeats the yielded events
            # that are not acknowledged.
            self._handled_resumes = self.resumes
            self._is_replaying = self._acked < self._yielded
        if has_new_events or mark == job_service_pb2.WATCH_MARK_CAUGHT_UP:
            self._is_replaying = False

    async def _acknowledge_unmatched(self) -> None:
        """Acknowledge events that do not match, if all matching events are acknowledged.

        Otherwise a subscription to rare jobs would retain all other events, and expire.
        """
        all_acked = self._acked == self._yielded and not self._events and not self._is_replaying
        if all_acked and self.cursor != self._acked_cursor:
            # The stream or the next `ack` reports the error.
            with suppress(CallError):
                await self._acknowledge()

    async def _acknowledge(self) -> None:
        # Read both before the call, because more events may be yielded during the call.
        cursor, covered = self.cursor, self._covered
        request = subscription_service_pb2.AckSubscriptionRequest(name=self.name, cursor=cursor)
        await self._calls.unary(lambda gateway: gateway.subscriptions.AckSubscription, request)
        self._acked_cursor, self._acked = cursor, covered

    async def _name_in_use(self) -> bool:
        """Return whether another consumer uses this name; both would replace each other."""
        request = subscription_service_pb2.GetSubscriptionRequest(name=self.name)
        response = await self._calls.unary(
            lambda gateway: gateway.subscriptions.GetSubscription, request
        )
        return response.subscription.consumer == self.consumer

    def _check(self) -> None:
        if self._taken is not None:
            raise self._taken

    async def _end_with_error(self, taken: SubscriptionTaken) -> None:
        self._taken = taken
        # Yield no more events.
        self._events.clear()
        await self.aclose()


def _unique_consumer_name() -> str:
    """Return a unique name that contains the host and the process id."""
    host = "".join(c for c in socket.gethostname() if c.isprintable())[:_MAX_HOST_LENGTH]
    return f"{host}-{os.getpid()}-{uuid4().hex[:8]}"
