"""The readers: clients with open streams, which note when each event came."""

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

# How long opening all streams may take, in seconds.
_OPEN: Final = 300.0
# A process opens so many streams at the same time.
_OPENING: Final = 200
# How long the last events may take, in seconds.
_PATIENCE: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """All streams are open. `cursor` is that of the first response of one over many jobs."""

    cursor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """Asks for what was read, once so many events have come."""

    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was read since the last one.

    `times` are the times of the events, `latencies` how much later they were read, `marks` when
    marks came, all of them arrays of microseconds (`q`). `responses` counts messages with events,
    `gaps` events that came without the one before, and `repeats` those that came again.
    """

    times: bytes
    latencies: bytes
    responses: int
    marks: bytes
    gaps: int
    repeats: int


def microseconds(stamp: Timestamp) -> int:
    """A timestamp as whole microseconds since the epoch."""
    return stamp.seconds * 1_000_000 + stamp.nanos // 1000


class Response(Protocol):
    """What the responses of all streams have."""

    @property
    def events(self) -> Sequence[event_pb2.JobEvent]: ...


async def read(link: Link, address: str, subjects: Sequence[Subject], channels: int) -> None:
    """Opens streams and reads them until it is ended.

    Args:
        link: says Opened; gets Collects and says Read for each.
        address: the gateway's.
        subjects: one for each stream.
        channels: over how many connections.
    """
    record = Record()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        stubs = [await stack.enter_async_context(stub_of(address)) for _ in range(channels)]
        opening = asyncio.Semaphore(_OPENING)
        opened = [asyncio.Event() for _ in subjects]
        for number, subject in enumerate(subjects):
            stub = stubs[number % channels]
            group.create_task(_follow(stub, subject, record, opening, opened[number]))
        async with asyncio.timeout(_OPEN):
            for event in opened:
                await event.wait()
        link.send(Opened(cursor=record.cursor))
        while True:
            order = await link.receive(Collect, timeout=IDLE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await record.has(order.events)
            link.send(record.take())


class Record:
    """What a reader notes of the events that it sees."""

    def __init__(self) -> None:
        self.cursor = ""
        self._seqs: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._clear()

    def _clear(self) -> None:
        self._times, self._latencies, self._marks = array("q"), array("q"), array("q")
        self._responses = self._gaps = self._repeats = 0

    def begin(self, response: Response, subject: Subject) -> None:
        """Notes the first response of a stream."""
        if isinstance(response, job_service_pb2.WatchJobsResponse):
            self.cursor = response.cursor
        if subject.cursor:
            self.note(response.events)
        else:
            # What had happened before is not what is measured.
            self._seqs.update((event.job_id, event.seq) for event in response.events)

    def note(self, events: Sequence[event_pb2.JobEvent]) -> None:
        """Notes a response."""
        now = time.time_ns() // 1000
        if not events:
            self._marks.append(now)
            return
        self._responses += 1
        for event in events:
            if event.seq <= STARTED_SEQ:
                # "From now" may begin up to a second earlier.
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

    async def has(self, events: int) -> None:
        """Returns once so many events were noted."""
        while len(self._times) < events:
            self._changed.clear()
            await self._changed.wait()

    def take(self) -> Read:
        """What was noted, and begins anew."""
        read = Read(
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
async def stub_of(address: str) -> AsyncIterator[Stub]:
    """A stub over a connection of its own."""
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
    responses = aiter(_begin(stub, subject))
    async with opening:
        record.begin(await anext(responses), subject)
    opened.set()
    async for response in responses:
        record.note(response.events)
    raise ConnectionError(f"{subject} has ended")


def _begin(stub: Stub, subject: Subject) -> AsyncIterable[Response]:
    if subject.kind is Kind.JOB:
        return stub.WatchJob(job_service_pb2.WatchJobRequest(job_id=subject.job_id))
    job_filter = job_service_pb2.JobFilter(labels={LABEL: subject.label})
    request = job_service_pb2.WatchJobsRequest(filter=job_filter, cursor=subject.cursor)
    return stub.WatchJobs(request)
