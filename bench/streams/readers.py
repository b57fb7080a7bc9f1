"""The readers: clients with open streams, which record when each event arrives."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from bench.child import IDLE_S, Link
from bench.streams.following import Kind, Subject
from bench.streams.jobs import LABEL, STARTED_SEQ
from headrace.v1 import event_pb2, job_service_pb2, job_service_pb2_grpc

Stub: TypeAlias = "job_service_pb2_grpc.JobServiceAsyncStub"

# Longest time to open all streams, in seconds.
_OPEN_TIMEOUT_S: Final = 300.0
# Streams that a process opens concurrently.
_CONCURRENT_OPENS: Final = 200
# Longest wait for the last events, in seconds.
_LAST_EVENTS_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The message that all streams are open; `cursor` is a WatchJobs stream's first cursor."""

    cursor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """The request for the events read so far, after at least `events` of them."""

    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """The events and marks read since the previous `ReadResult`.

    Attributes:
        times: the times of the events, an array of microseconds (`q`).
        latencies: the time from each event until it was read, in the same form.
        responses: the number of messages with events.
        marks: the arrival times of marks, in the same form.
        gaps: the number of events whose predecessor is missing.
        repeats: the number of events that arrived again.
    """

    times: bytes
    latencies: bytes
    responses: int
    marks: bytes
    gaps: int
    repeats: int


def microseconds(stamp: Timestamp) -> int:
    """Return a timestamp as whole microseconds since the epoch."""
    return stamp.seconds * 1_000_000 + stamp.nanos // 1000


class Response(Protocol):
    """The field that the responses of all streams have."""

    @property
    def events(self) -> Sequence[event_pb2.JobEvent]: ...


async def read(link: Link, address: str, subjects: Sequence[Subject], channels: int) -> None:
    """Open streams and read them until the process is stopped.

    Args:
        link: sends Opened; then receives Collect any number of times and sends ReadResult for each.
        address: the address of the gateway.
        subjects: the requests, one per stream.
        channels: the number of connections.
    """
    record = Record()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        stubs = [await stack.enter_async_context(open_stub(address)) for _ in range(channels)]
        opening = asyncio.Semaphore(_CONCURRENT_OPENS)
        opened = [asyncio.Event() for _ in subjects]
        for number, subject in enumerate(subjects):
            stub = stubs[number % channels]
            group.create_task(_follow(stub, subject, record, opening, opened[number]))
        async with asyncio.timeout(_OPEN_TIMEOUT_S):
            for event in opened:
                await event.wait()
        link.send(Opened(cursor=record.cursor))
        while True:
            request = await link.receive(Collect, timeout=IDLE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_EVENTS_TIMEOUT_S):
                    await record.wait_for(request.events)
            link.send(record.collect())


class Record:
    """The record of the events that a reader has received."""

    def __init__(self) -> None:
        self.cursor = ""
        self._seqs: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._clear()

    def _clear(self) -> None:
        self._times, self._latencies, self._marks = array("q"), array("q"), array("q")
        self._responses = self._gaps = self._repeats = 0

    def add_first_response(self, response: Response, subject: Subject) -> None:
        """Record the first response of a stream."""
        if isinstance(response, job_service_pb2.WatchJobsResponse):
            self.cursor = response.cursor
        if subject.cursor:
            self.add(response.events)
        else:
            # The measurement excludes earlier events.
            self._seqs.update((event.job_id, event.seq) for event in response.events)

    def add(self, events: Sequence[event_pb2.JobEvent]) -> None:
        """Record a response; a response without events is a mark."""
        now = time.time_ns() // 1000
        if not events:
            self._marks.append(now)
            return
        self._responses += 1
        for event in events:
            if event.seq <= STARTED_SEQ:
                # A watch without a cursor may start up to a second in the past.
                continue
            expected = self._seqs.get(event.job_id, STARTED_SEQ) + 1
            if event.seq != expected:
                if event.seq < expected:
                    self._repeats += 1
                    continue
                self._gaps += 1
            self._seqs[event.job_id] = event.seq
            stamp = microseconds(event.event_time)
            self._times.append(stamp)
            self._latencies.append(now - stamp)
        self._changed.set()

    async def wait_for(self, events: int) -> None:
        """Wait until at least `events` events are recorded."""
        while len(self._times) < events:
            self._changed.clear()
            await self._changed.wait()

    def collect(self) -> ReadResult:
        """Return the recorded events and clear the record."""
        read = ReadResult(
            times=self._times.tobytes(),
            latencies=self._latencies.tobytes(),
            responses=self._responses,
            marks=self._marks.tobytes(),
            gaps=self._gaps,
            repeats=self._repeats,
        )
        self._clear()
        return read


@asynccontextmanager
async def open_stub(address: str) -> AsyncIterator[Stub]:
    """Open a connection for the duration of the block and yield its stub."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield job_service_pb2_grpc.JobServiceStub(channel)


async def _follow(
    stub: Stub,
    subject: Subject,
    record: Record,
    opening: asyncio.Semaphore,
    opened: asyncio.Event,
) -> None:
    responses = aiter(_open(stub, subject))
    async with opening:
        record.add_first_response(await anext(responses), subject)
    opened.set()
    async for response in responses:
        record.add(response.events)
    raise ConnectionError(f"the stream of {subject} ended unexpectedly")


def _open(stub: Stub, subject: Subject) -> AsyncIterable[Response]:
    if subject.kind is Kind.JOB:
        return stub.WatchJob(job_service_pb2.WatchJobRequest(job_id=subject.job_id))
    job_filter = job_service_pb2.JobFilter(labels={LABEL: subject.label})
    request = job_service_pb2.WatchJobsRequest(filter=job_filter, cursor=subject.cursor)
    return stub.WatchJobs(request)
