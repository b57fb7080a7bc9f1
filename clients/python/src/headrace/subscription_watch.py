"""Receiving a named subscription."""

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
    """The events of a subscription that have not been acknowledged, then each as it happens.

        async with client.subscribe("billing") as events:
            async for event in events:
                handle(event)
                await events.ack()

    Each event is yielded once in this process, in order per job, however often the connection is
    cut. What was not acknowledged when the process ends comes again, here or at another consumer.
    To act on it once all the same, write `(job_id, seq)` down together with what was done.

    What does not match needs no `ack`: once all events are acknowledged, it is passed by.

    While another consumer receives the subscription this one waits, to go on when that one is gone.

    Attributes:
        name: the subscription's.
        consumer: names this receiver at the server, for all of its life.
        cursor: what the next `ack` acknowledges; empty before there is anything.
        caught_up: whether all that had happened before has been yielded; what follows is live.
        standby: whether another consumer receives, and this one waits.
    """

    def __init__(self, calls: Calls, *, name: str, consumer: str | None) -> None:
        super().__init__(calls, cursor="")
        self.name = name
        self.consumer = _own_name() if consumer is None else consumer
        self.standby = False
        self._calls = calls
        # The cursor that was acknowledged last, and how many of the events that were yielded.
        self._acked_cursor, self._acked = "", 0
        self._taken: SubscriptionTaken | None = None
        self._resumes_seen = 0
        # Whether the last response says that nothing matches.
        self._idle = False
        # Whether it may be watched again after it was taken: once for each time that it answers.
        self._welcome = False

    async def ack(self) -> bool:
        """Acknowledges what has been yielded: it never comes again, to nobody.

        Events come in messages, of one event when it is quiet and of many under load, and a message
        is acknowledged as a whole. So while only a part of one has been yielded, this acknowledges
        what came before it; the first `ack` behind its last event has the rest. What has not been
        yielded is never acknowledged. It calls the server only when there is something new to
        acknowledge, so it may stand behind each event.

        Returns:
            Whether all that has been yielded is acknowledged now.

        Raises:
            SubscriptionTaken: another consumer receives now, and what was not acknowledged goes
                there. The iteration ends with this error as well.
            CallError: it did not come through; it may be repeated.
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
        """Waits until an event can be taken; False when it was closed and there are no more.

        Raises:
            SubscriptionTaken: another consumer receives now, and an `ack` was refused for that; or
                somebody else has the same consumer's name.
            CursorExpired: events that were not acknowledged are not kept any more.
            CallError: the stream was refused, or could not be resumed in time.
        """
        self._check()
        return await super().ready()

    @property
    def _resumable(self) -> bool:
        # The server keeps its place.
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
            if self._welcome and not await self._has_namesake():
                # Its lease has lapsed. It waits for its turn again.
                self._welcome, self.standby = False, True
                return True
            await self._lose(taken)
            raise
        self._welcome = True
        if self._idle:
            await self._pass_by()
        return received

    def _arrived(self, response: Response, *, news: bool) -> None:
        mark = response.mark
        self._idle = mark == job_service_pb2.WATCH_MARK_IDLE
        self.standby = mark == job_service_pb2.WATCH_MARK_STANDBY
        if self.standby:
            self.caught_up = False
        if self.resumes > self._resumes_seen:
            # It begins behind what is acknowledged, and so with what else was yielded.
            self._resumes_seen = self.resumes
            self._replaying = self._acked < self._yielded
        if news or mark == job_service_pb2.WATCH_MARK_CAUGHT_UP:
            self._replaying = False

    async def _pass_by(self) -> None:
        """Acknowledges what does not match, once all that does is acknowledged.

        Else a subscription whose jobs are rare would hold on to all the others' events, and expire.
        """
        nothing_open = self._acked == self._yielded and not self._events and not self._replaying
        if nothing_open and self.cursor != self._acked_cursor:
            # What is wrong is for the stream or the next `ack` to say.
            with suppress(CallError):
                await self._acknowledge()

    async def _acknowledge(self) -> None:
        # More may be yielded while the server answers.
        cursor, settled = self.cursor, self._settled
        request = subscription_service_pb2.AckSubscriptionRequest(name=self.name, cursor=cursor)
        await self._calls.unary(lambda gateway: gateway.subscriptions.AckSubscription, request)
        self._acked_cursor, self._acked = cursor, settled

    async def _has_namesake(self) -> bool:
        """Whether who receives now has this one's name: they would replace each other for ever."""
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
        # Nothing more is yielded.
        self._events.clear()
        await self.aclose()


def _own_name() -> str:
    """A name for one consumer in this process, which tells a person where it runs."""
    host = "".join(c for c in socket.gethostname() if c.isprintable())[:_MAX_HOST]
    return f"{host}-{os.getpid()}-{uuid4().hex[:8]}"
