"""The base class of `Watch` and `SubscriptionWatch`: events of many jobs on one stream."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from grpc import aio

from headrace._calls import Calls
from headrace._convert import from_event
from headrace._gateways import Gateway
from headrace._headers import Metadata
from headrace.errors import DeadlineExceeded, Refusal
from headrace.event import JobEvent
from headrace.v1 import event_pb2, job_service_pb2, subscription_service_pb2

# Maximum number of jobs whose last event number is stored, to drop events that a resumed stream
# repeats.
_MAX_REMEMBERED_JOBS: Final = 65_536

Response: TypeAlias = (
    job_service_pb2.WatchJobsResponse | subscription_service_pb2.WatchSubscriptionResponse
)


class EventStream(ABC):
    """The events of many jobs on one stream, each once and in order per job.

    Waiting for an event can be cancelled, for example by a timeout, without losing an event.

    Attributes:
        cursor: the cursor of the last response whose events have all been yielded.
        caught_up: whether all past events have been yielded; later events are live.
    """

    def __init__(self, calls: Calls, *, cursor: str) -> None:
        self.cursor = cursor
        self.caught_up = False
        self._timeout = calls.timeout
        self._stream = calls.stream(endless=True)
        self._newest = _NewestEvents()
        # The last response, and its events that have not been yielded.
        self._response: Response | None = None
        self._events: deque[event_pb2.JobEvent] = deque()
        # The number of yielded events, and how many of them `cursor` covers.
        self._yielded = self._covered = 0
        # True while a resumed stream has sent only repeated events. `cursor` is then ahead of the
        # responses and does not change.
        self._is_replaying = False

    @property
    def resumes(self) -> int:
        """The number of resumes, after a disconnect or because this program was slow."""
        return self._stream.resumes

    async def __aenter__(self) -> Self:
        """Start the stream.

        Raises:
            CallError: the stream was rejected, or no gateway responded within the client's timeout.
        """
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                await self._receive()
        except BaseException as error:
            if limit.expired() and type(error) is TimeoutError:
                if self._can_resume and await self._stream.is_accepted():
                    # The gateway is still searching past events for a match. The stream misses no
                    # event.
                    return self
                message = f"no gateway responded within {self._timeout:g} s"
                error = DeadlineExceeded(Refusal(code="DEADLINE_EXCEEDED", message=message))
            await self.aclose()
            raise error from None
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
        # Return received events without waiting.
        if not self._events and not await self.wait_for_event():
            raise StopAsyncIteration
        return self.take_event()

    async def wait_for_event(self) -> bool:
        """Wait for an event; return False if the stream was closed and has no more events.

        Raises:
            CallError: the stream was rejected, or could not be resumed in time.
        """
        while not self._events:
            if not await self._receive():
                return False
        return True

    def take_event(self) -> JobEvent:
        """Return the next received event, after `wait_for_event` has returned True."""
        event = from_event(self._events[0])
        self._events.popleft()
        self._yielded += 1
        if not self._events:
            self._advance()
        return event

    @property
    def _can_resume(self) -> bool:
        """True if the stream can start later without missing an event."""
        return bool(self.cursor)

    @abstractmethod
    def _start(self, gateway: Gateway, headers: Metadata) -> aio.UnaryStreamCall[Any, Any]:
        """Start the stream after `cursor`."""

    def _on_response(self, response: Response, *, has_new_events: bool) -> None:  # noqa: B027  # may do nothing
        """Handle a response; `has_new_events` is False if the stream has only repeated events."""

    async def _receive(self) -> bool:
        response = await self._stream.next(self._start)
        if response is None:
            return False
        self._response = response
        self._events.extend(self._newest.record_new(response.events))
        if self._events:
            self._stream.reset_backoff()
        self._on_response(response, has_new_events=bool(self._events))
        self._advance()
        return True

    def _advance(self) -> None:
        """If all events of the last response have been yielded, advance the cursor."""
        if self._events or self._response is None:
            return
        if not self._is_replaying:
            # The cursor of a response is the place after its last event.
            self._covered = self._yielded
            self.cursor = self._response.cursor or self.cursor
        if self._response.mark == job_service_pb2.WATCH_MARK_CAUGHT_UP:
            self.caught_up = True
        self._response = None


class _NewestEvents:
    """The number of the newest event of each recent job."""

    def __init__(self) -> None:
        self._seqs: OrderedDict[str, int] = OrderedDict()

    def record_new(self, events: Iterable[event_pb2.JobEvent]) -> list[event_pb2.JobEvent]:
        """Return the new events, and store their numbers."""
        seqs, new = self._seqs, []
        for event in events:
            job_id, seq = event.job_id, event.seq
            if seq > seqs.get(job_id, 0):
                seqs[job_id] = seq
                seqs.move_to_end(job_id)
                new.append(event)
        while len(seqs) > _MAX_REMEMBERED_JOBS:
            seqs.popitem(last=False)
        return new
