"""Following jobs: many on one stream, or one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias

from grpc import aio

from headrace._calls import Calls
from headrace._convert import JSON, from_event
from headrace._following import Following
from headrace._gateways import Gateway
from headrace.event import JobEvent
from headrace.v1 import event_pb2, job_service_pb2

# Begins the stream of one job at a gateway, behind the event with a number.
JobStart: TypeAlias = Callable[[Gateway, int], aio.UnaryStreamCall[Any, Any]]


class Watch(Following):
    """The events of all jobs that match a filter, until the caller ends it.

    `async with client.watch(…) as watch:` begins to follow: once inside, no later event is missed.
    `async for event in watch:` then yields each event once, in order per job. When the connection
    is cut, or the gateway ends the stream since this program was slow, it is resumed by itself. A
    wait for an event may be cancelled, by a timeout for instance, and loses none.

    Attributes:
        cursor: where to resume after the event that was yielded last, at any gateway, also in
            another process. Several events may share a cursor: then some of them come again.
        caught_up: whether all that had happened before has been yielded; what follows is live.
    """

    def __init__(self, calls: Calls, *, job_filter: job_service_pb2.JobFilter, cursor: str) -> None:
        super().__init__(calls, cursor=cursor)
        self._filter = job_filter

    def _start(self, gateway: Gateway) -> aio.UnaryStreamCall[Any, Any]:
        request = job_service_pb2.WatchJobsRequest(
            filter=self._filter, cursor=self.cursor, data_encoding=JSON
        )
        return gateway.jobs.WatchJobs(request)


class JobWatch:
    """The events of one job: the history, then each as it happens, to the terminal one.

    `async for event in watch:` yields each event once and in order. When the connection is cut it
    goes on from the last event, at any gateway. A wait for an event may be cancelled, by a timeout
    for instance, and loses none.

    Attributes:
        seq: the number of the event that was yielded last: where to resume.
    """

    def __init__(self, calls: Calls, *, start: JobStart, after_seq: int) -> None:
        self.seq = after_seq
        self._begin = start
        self._stream = calls.stream(endless=False)
        self._events: deque[event_pb2.JobEvent] = deque()

    @property
    def resumes(self) -> int:
        """How often the stream was cut and resumed."""
        return self._stream.resumes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the stream."""
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobEvent:
        while not self._events:
            response = await self._stream.next(self._start)
            if response is None:
                raise StopAsyncIteration
            self._events.extend(event for event in response.events if event.seq > self.seq)
            if self._events:
                self._stream.progressed()
        event = from_event(self._events[0])
        self._events.popleft()
        self.seq = event.seq
        return event

    def _start(self, gateway: Gateway) -> aio.UnaryStreamCall[Any, Any]:
        return self._begin(gateway, self.seq)
