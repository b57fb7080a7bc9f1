"""Watches of all jobs that match a filter, of a single job, and of its log."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

from grpc import aio

from headrace._calls import Calls
from headrace._convert import JSON, from_event, from_job, from_log_line
from headrace._event_stream import EventStream
from headrace._gateways import Gateway
from headrace._headers import Metadata
from headrace.event import JobEvent
from headrace.job import Job
from headrace.job_log import JobLogLine
from headrace.v1 import event_pb2, job_service_pb2

M = TypeVar("M")
T = TypeVar("T")

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


class _JobStream(ABC, Generic[M, T]):
    """A stream about one job, which ends with the job."""

    def __init__(self, calls: Calls) -> None:
        self._stream = calls.stream(endless=False)
        self._received: deque[M] = deque()

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

    async def __anext__(self) -> T:
        while not self._received:
            response = await self._stream.next(self._start)
            if response is None:
                raise StopAsyncIteration
            self._received.extend(self._new(response))
            if self._received:
                self._stream.reset_backoff()
        item = self._convert(self._received[0])
        self._received.popleft()
        return item

    @abstractmethod
    def _start(self, gateway: Gateway, headers: Metadata) -> aio.UnaryStreamCall[Any, Any]:
        """Start the stream after the last returned item."""

    @abstractmethod
    def _new(self, response: Any) -> Iterable[M]:
        """Return the messages of a response that were not received before."""

    @abstractmethod
    def _convert(self, message: M) -> T:
        """Convert the next message, and record it as returned."""


class JobWatch(_JobStream[event_pb2.JobEvent, JobEvent]):
    """Past and future events of one job, until the terminal event.

    `async for event in watch:` yields each event once and in order. A disconnected stream resumes
    after the last event, at any gateway. Waiting for an event can be cancelled, for example by a
    timeout, without losing an event.

    Attributes:
        seq: the number of the last yielded event; a later watch can resume after it.
        ended_job: the ended job with its result, after the last event; None before, or if the watch
            did not request it, or if the gateway has an older version or the job was requeued.
        job_id: the id of the job; empty until the gateway has stored it.
    """

    def __init__(self, calls: Calls, *, start: JobStart, after_seq: int, job_id: str = "") -> None:
        super().__init__(calls)
        self.seq = after_seq
        self.job_id = job_id
        self.ended_job: Job | None = None
        self._start_at = start

    def _start(self, gateway: Gateway, headers: Metadata) -> aio.UnaryStreamCall[Any, Any]:
        return self._start_at(gateway, headers, self.seq)

    def _new(self, response: Any) -> Iterable[event_pb2.JobEvent]:
        if not self.job_id and response.HasField("job"):
            self.job_id = response.job.id
        if response.HasField("ended_job"):
            self.ended_job = from_job(response.ended_job)
        return (event for event in response.events if event.seq > self.seq)

    def _convert(self, message: event_pb2.JobEvent) -> JobEvent:
        event = from_event(message)
        self.seq = event.seq
        return event


class LogWatch(_JobStream[job_service_pb2.JobLogLine, JobLogLine]):
    """Past and future log lines of one job, until the job ends.

    `async for line in watch:` yields each line once and in order. A disconnected stream resumes
    after the last line, at any gateway. Waiting for a line can be cancelled without losing a line.

    Attributes:
        position: the position of the last yielded line; a later watch can resume after it.
    """

    def __init__(self, calls: Calls, *, job_id: str, after_position: int) -> None:
        super().__init__(calls)
        self.position = after_position
        self._job_id = job_id

    def _start(self, gateway: Gateway, headers: Metadata) -> aio.UnaryStreamCall[Any, Any]:
        request = job_service_pb2.WatchJobLogsRequest(
            job_id=self._job_id, after_position=self.position, data_encoding=JSON
        )
        return gateway.jobs.WatchJobLogs(request, metadata=headers)

    def _new(self, response: Any) -> Iterable[job_service_pb2.JobLogLine]:
        return (line for line in response.lines if line.position > self.position)

    def _convert(self, message: job_service_pb2.JobLogLine) -> JobLogLine:
        line = from_log_line(message)
        self.position = line.position
        return line
