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
from headrace._following import Following, Response
from headrace._gateways import Gateway
from headrace.errors import CallError, SubscriptionTaken
from headrace.v1 import job_service_pb2, subscription_service_pb2

_MAX_HOST: Final = 80


class SubscriptionWatch(Following):
    """Unacknowledged and future events of a subscription.

        async with client.subscribe("billing") as events:
            async for event in events:
                handle(event)
                await events.ack()

    Each event is yielded once in this process, in order per job, even if the connection is lost. If
    the process ends, the server sends unacknowledged events again, to any consumer. To act on each
    event only once, store `(job_id, seq)` together with the effect.

    Events that do not match need no `ack`.

    While another consumer receives the subscription, this one waits on standby. It takes over when
    the other one stops.

    Attributes:
        name: the name of the subscription.
        consumer: the name of this consumer.
        cursor: the place up to which the next `ack` acknowledges events; empty before the first
            event.
        caught_up: whether all past events have been yielded; the next ones are live.
        standby: whether this consumer waits while another one receives.
    """

    def __init__(self, calls: Calls, *, name: str, consumer: str | None) -> None:
        super().__init__(calls, cursor="")
        self.name = name
        self.consumer = _own_name() if consumer is None else consumer
        self.standby = False
        self._calls = calls
        # The last acknowledged cursor, and the number of acknowledged events.
        self._acked_cursor, self._acked = "", 0
        self._taken: SubscriptionTaken | None = None
        self._resumes_seen = 0
        # True if the last response was an idle mark.
        self._idle = False
        # True if the watch may restart after a loss of the subscription: once after each response.
        self._may_rejoin = False

    async def ack(self) -> bool:
        """Acknowledge the yielded events, so that no consumer receives them again.

        The server sends one event per message, or many under load, and a message is acknowledged as
        a whole. If only some events of a message have been yielded, `ack` acknowledges the earlier
        messages; the first `ack` after the last event of that message acknowledges it too. Events
        that have not been yielded are never acknowledged. `ack` calls the server only if it has new
        events to acknowledge, so you can call it after each event.

        Returns:
            Whether all yielded events are acknowledged now.

        Raises:
            SubscriptionTaken: another consumer receives now, with all unacknowledged events. The
                iteration ends with this error too.
            CallError: the call failed; you can repeat it.
        """
        self._check()
        if self.cursor != self._acked_cursor:
            try:
                await self._acknowledge()
            except SubscriptionTaken as taken:
                await self._lose(taken)
                raise
        return self._acked == self._yielded

    async def ready(self) -> bool:
        """Wait for an event; return False if the watch was closed and has no more events.

        Raises:
            SubscriptionTaken: another consumer receives now, so an `ack` was refused; or another
                consumer has the same name.
            CursorExpired: unacknowledged events were deleted.
            CallError: the stream was refused, or could not be resumed in time.
        """
        self._check()
        return await super().ready()

    @property
    def _resumable(self) -> bool:
        # The server stores the position.
        return True

    def _start(self, gateway: Gateway) -> aio.UnaryStreamCall[Any, Any]:
        request = subscription_service_pb2.WatchSubscriptionRequest(
            name=self.name, consumer=self.consumer, data_encoding=JSON
        )
        return gateway.subscriptions.WatchSubscription(request)

    async def _receive(self) -> bool:
        try:
            received = await super()._receive()
        except SubscriptionTaken as taken:
            if self._may_rejoin and not await self._name_in_use():
                # The lease of this consumer has lapsed, so it waits on standby again.
                self._may_rejoin, self.standby = False, True
                return True
            await self._lose(taken)
            raise
        self._may_rejoin = True
        if self._idle:
            await self._acknowledge_unmatched()
        return received

    def _received(self, response: Response, *, news: bool) -> None:
        mark = response.mark
        self._idle = mark == job_service_pb2.WATCH_MARK_IDLE
        self.standby = mark == job_service_pb2.WATCH_MARK_STANDBY
        if self.standby:
            self.caught_up = False
        if self.resumes > self._resumes_seen:
            # The stream restarts after the acknowledged events and repeats the other yielded ones.
            self._resumes_seen = self.resumes
            self._replaying = self._acked < self._yielded
        if news or mark == job_service_pb2.WATCH_MARK_CAUGHT_UP:
            self._replaying = False

    async def _acknowledge_unmatched(self) -> None:
        """Acknowledge events that do not match, after all matching ones are acknowledged.

        Otherwise a subscription to rare jobs would retain all other events, and expire.
        """
        all_acked = self._acked == self._yielded and not self._events and not self._replaying
        if all_acked and self.cursor != self._acked_cursor:
            # The stream or the next `ack` reports the error.
            with suppress(CallError):
                await self._acknowledge()

    async def _acknowledge(self) -> None:
        # Read both now: more events may be yielded during the call.
        cursor, covered = self.cursor, self._covered
        request = subscription_service_pb2.AckSubscriptionRequest(name=self.name, cursor=cursor)
        await self._calls.unary(lambda gateway: gateway.subscriptions.AckSubscription, request)
        self._acked_cursor, self._acked = cursor, covered

    async def _name_in_use(self) -> bool:
        """Return whether the current consumer has the same name; both would replace each other."""
        request = subscription_service_pb2.GetSubscriptionRequest(name=self.name)
        response = await self._calls.unary(
            lambda gateway: gateway.subscriptions.GetSubscription, request
        )
        return response.subscription.consumer == self.consumer

    def _check(self) -> None:
        if self._taken is not None:
            raise self._taken

    async def _lose(self, taken: SubscriptionTaken) -> None:
        self._taken = taken
        # Yield no more events.
        self._events.clear()
        await self.aclose()


def _own_name() -> str:
    """Return a unique name that contains the host and the process id."""
    host = "".join(c for c in socket.gethostname() if c.isprintable())[:_MAX_HOST]
    return f"{host}-{os.getpid()}-{uuid4().hex[:8]}"
