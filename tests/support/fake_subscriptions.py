"""Named subscriptions in memory, as in the contract, for a fake server."""

# ruff: noqa: N802  # the methods of a service have the names of its calls

from dataclasses import dataclass, field

import grpc

from headrace.v1 import job_service_pb2, subscription_service_pb2
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceServicer
from support.refusals import abort


@dataclass
class Held:
    """A subscription, with its acknowledged position and its receiver."""

    filter: object
    position: int
    consumer: str = ""
    epoch: int = 0
    # The receiving watch, if any.
    watch: object = None
    expired: bool = False
    acks: list = field(default_factory=list)


class FakeSubscriptions(SubscriptionServiceServicer):
    """The subscriptions of a fake platform.

    Attributes:
        held: the subscriptions by name.
        pack: the maximum number of events in a message.
        room: the number of messages with events that may still be sent; None means any number.
    """

    def __init__(self, platform):
        self.platform = platform
        self.held = {}
        self.pack = 1
        self.room = None
        self.idles = 0

    # The controls of a test.

    def take_over(self, name, consumer):
        """Let another consumer take over, as after the lapse of a lease."""
        held = self.held[name]
        held.epoch += 1
        held.consumer, held.watch = consumer, object()
        self.platform.wake()

    def release(self, name):
        """Remove the receiver."""
        self.held[name].watch = None
        self.platform.wake()

    def idle(self):
        """Send an idle mark to each receiver."""
        self.idles += 1
        self.platform.wake()

    # Helpers.

    async def find(self, name, context):
        if name not in self.held:
            await abort(
                context,
                grpc.StatusCode.NOT_FOUND,
                f"subscription {name!r} does not exist; create it first",
                "SUBSCRIPTION_NOT_FOUND",
                metadata={"subscription": name},
            )
        return self.held[name]

    async def taken(self, name, context):
        await abort(
            context,
            grpc.StatusCode.ABORTED,
            f"another consumer receives subscription {name!r}; watch it again",
            "SUBSCRIPTION_TAKEN",
            metadata={"subscription": name},
        )

    def message(self, name):
        held = self.held[name]
        message = subscription_service_pb2.Subscription(
            name=name, filter=held.filter, consumer=held.consumer if held.watch else ""
        )
        message.create_time.GetCurrentTime()
        if held.acks:
            message.ack_time.GetCurrentTime()
        if held.position < len(self.platform.log):
            message.lag.FromSeconds(90)
        return message

    # The service.

    async def CreateSubscription(self, request, context):
        await self.platform.arrive("CreateSubscription", request, context)
        old = self.held.get(request.name)
        if old is not None and old.filter != request.filter:
            await abort(
                context,
                grpc.StatusCode.ALREADY_EXISTS,
                f"subscription {request.name!r} has another filter",
                "SUBSCRIPTION_CONFLICT",
                metadata={"subscription": request.name},
            )
        if old is None:
            position = int(request.cursor) if request.cursor else len(self.platform.log)
            self.held[request.name] = Held(request.filter, position)
        return subscription_service_pb2.CreateSubscriptionResponse(
            subscription=self.message(request.name), created=old is None
        )

    async def GetSubscription(self, request, context):
        await self.platform.arrive("GetSubscription", request, context)
        await self.find(request.name, context)
        return subscription_service_pb2.GetSubscriptionResponse(
            subscription=self.message(request.name)
        )

    async def ListSubscriptions(self, request, context):
        await self.platform.arrive("ListSubscriptions", request, context)
        begin = int(request.page_token or 0)
        end = begin + (request.page_size or 100)
        names = sorted(self.held)
        return subscription_service_pb2.ListSubscriptionsResponse(
            subscriptions=[self.message(name) for name in names[begin:end]],
            next_page_token=str(end) if end < len(names) else "",
        )

    async def DeleteSubscription(self, request, context):
        await self.platform.arrive("DeleteSubscription", request, context)
        await self.find(request.name, context)
        del self.held[request.name]
        self.platform.wake()
        return subscription_service_pb2.DeleteSubscriptionResponse()

    async def AckSubscription(self, request, context):
        await self.platform.arrive("AckSubscription", request, context)
        held = await self.find(request.name, context)
        epoch, position = request.cursor.split(":")
        if epoch == "oldest":
            held.expired = False
        elif int(epoch) != held.epoch:
            await self.taken(request.name, context)
        held.position = max(held.position, int(position))
        held.acks.append(int(position))
        self.platform.wake()
        return subscription_service_pb2.AckSubscriptionResponse()

    async def WatchSubscription(self, request, context):
        await self.platform.arrive("WatchSubscription", request, context)
        held = await self.find(request.name, context)
        if held.expired:
            await abort(
                context,
                grpc.StatusCode.OUT_OF_RANGE,
                "events after this cursor were pruned",
                "CURSOR_EXPIRED",
                metadata={"oldest_cursor": f"oldest:{held.position + 1}"},
            )
        self.platform.watchers[request.name] += 1
        self.platform.wake()
        mine = object()
        try:
            async for response in self.receive(request, held, mine, context):
                yield response
        finally:
            if held.watch is mine:
                held.watch = None
            self.platform.left[request.name] += 1
            self.platform.wake()

    async def receive(self, request, held, mine, context):
        platform = self.platform
        ends = platform.ends(context)
        stands_by = False
        while held.watch is not None and held.consumer != request.consumer:
            changed = platform.changed
            if not stands_by:
                stands_by = True
                yield subscription_service_pb2.WatchSubscriptionResponse(
                    mark=job_service_pb2.WATCH_MARK_STANDBY
                )
            await changed.wait()
            await ends()
        held.watch = mine
        if held.consumer != request.consumer:
            held.consumer = request.consumer
            held.epoch += 1
        platform.wake()
        position = held.position
        caught_up = False
        idles = self.idles
        while True:
            changed = platform.changed
            if self.held.get(request.name) is not held:
                await self.find(request.name, context)
            if held.watch is not mine:
                await self.taken(request.name, context)
            behind = platform.log[position:]
            matching = [
                (position + n, event)
                for n, event in enumerate(behind, start=1)
                if platform.matches(held.filter, event)
            ]
            while matching:
                while self.room == 0:
                    await platform.changed.wait()
                if self.room is not None:
                    self.room -= 1
                part, matching = matching[: self.pack], matching[self.pack :]
                yield subscription_service_pb2.WatchSubscriptionResponse(
                    events=[event for _, event in part], cursor=f"{held.epoch}:{part[-1][0]}"
                )
            position += len(behind)
            if not caught_up:
                caught_up = True
                yield subscription_service_pb2.WatchSubscriptionResponse(
                    cursor=f"{held.epoch}:{position}",
                    mark=job_service_pb2.WATCH_MARK_CAUGHT_UP,
                )
            if self.idles > idles:
                idles = self.idles
                yield subscription_service_pb2.WatchSubscriptionResponse(
                    cursor=f"{held.epoch}:{position}", mark=job_service_pb2.WATCH_MARK_IDLE
                )
            await changed.wait()
            await ends()
