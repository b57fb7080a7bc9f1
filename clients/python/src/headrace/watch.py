"""Watches of all jobs that match a filter, and of a single job."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias

from grpc import aio

from headrace._calls import Calls
from headrace._convert import JSON, from_event
from headrace._event_stream import EventStream
from headrace._gateways import Gateway
from headrace._headers import Metadata
from headrace.event import JobEvent
from headrace.v1 import event_pb2, job_service_pb2

# Starts the stream of one job at a gateway with the given headers, after the event with the given
# number.
JobStart: TypeAlias = Callable[[Gateway, Metadata, int], aio.UnaryStreamCall[Any, Any]]


class Watch(EventStream):
    """The events of all jobs that match a filter, until the caller ends the watch.

    `async with client.watch(…) as watch:` starts the watch, which misses no later event. `async for
    event in watch:` yields each event once, in order per job. The watch resumes automatically if
    the connection is lost, or if the gateway ends the stream because this program was slow. Waiting
    for an event can be cancelled, for example by a timeout, without losing an event.

    Attributes:
        cursor: the cursor that resumes after the last yielded event, at any gateway and in any
            process. If several events share a cursor, some of them may be yielded again.
        caught_up: whether all past events have been yielded; later events are live.
    """

    def __init__(self, calls: Calls, *, job_filter: job_service_pb2.JobFilter, cursor: str) -> None:
        super().__init__(calls, cursor=cursor)
        self._filter = job_filter

    def _start(self, gateway: Gateway, headers: Metadata) -> aio.UnaryStreamCall[Any, Any]:
        request = job_service_pb2.WatchJobsRequest(
            filter=self._filter, cursor=self.cursor, data_encoding=JSON
        )
        return gateway.jobs.WatchJobs(request, metadata=headers)


class JobWatch:
    """Past and future events of one job, until the terminal event.

    `async for event in watch:` yields each event once and in order. A disconnected stream resumes
    after the last event, at any gateway. Waiting for an event can be cancelled, for example by a
    timeout, without losing an event.

    Attributes:
        seq: the number of the last yielded event; a later watch can resume after it.
    """

    def __init__(self, calls: Calls, *, start: JobStart, after_seq: int) -> None:
        self.seq = after_seq
        self._start_at = start
        self._stream = calls.stream(endless=False)
        self._events: deque[event_pb2.JobEvent] = deque()

    @property
    def resumes(self) -> int:
        """The number of times that the stream has resumed."""
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
        """End the stream."""
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
                self._stream.reset_backoff()
        event = from_event(self._events[0])
        self._events.popleft()
        self.seq = event.seq
        return event

    def _start(self, gateway: Gateway, headers: Metadata) -> aio.UnaryStreamCall[Any, Any]:
        return self._start_at(gateway, headers, self.seq)
