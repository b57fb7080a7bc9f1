"""Following many jobs: what watches and subscriptions have in common."""

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
from headrace.errors import DeadlineExceeded, Refusal
from headrace.event import JobEvent
from headrace.v1 import event_pb2, job_service_pb2, subscription_service_pb2

# How many jobs are remembered to drop what a resumed stream repeats. What it repeats is recent.
_REMEMBERED_JOBS: Final = 65_536

Response: TypeAlias = (
    job_service_pb2.WatchJobsResponse | subscription_service_pb2.WatchSubscriptionResponse
)


class Following(ABC):
    """Yields the events of one stream over many jobs, each once and in order per job.

    A wait for an event may be cancelled, by a timeout for instance, and loses none.

    Attributes:
        cursor: what stands behind the last response whose events have all been yielded.
        caught_up: whether all that had happened before has been yielded; what follows is live.
    """

    def __init__(self, calls: Calls, *, cursor: str) -> None:
        self.cursor = cursor
        self.caught_up = False
        self._timeout = calls.timeout
        self._stream = calls.stream(endless=True)
        self._seen = _Seen()
        # The last response, and which of its events are still to be yielded.
        self._response: Response | None = None
        self._events: deque[event_pb2.JobEvent] = deque()
        # How many events were yielded, and how many of them stand before `cursor`.
        self._yielded = self._settled = 0
        # Whether only what was yielded before has come since the stream was resumed. Then `cursor`
        # is ahead of those responses and stays.
        self._replaying = False

    @property
    def resumes(self) -> int:
        """How often the stream was cut, or ended since this program was slow, and was resumed."""
        return self._stream.resumes

    async def __aenter__(self) -> Self:
        """Begins to follow.

        Raises:
            CallError: it was refused, or no gateway answered in the client's timeout.
        """
        patience = asyncio.timeout(self._timeout)
        try:
            async with patience:
                await self._receive()
        except BaseException as error:
            if patience.expired() and type(error) is TimeoutError:
                if self._resumable and await self._stream.taken():
                    # It reads a long past in which nothing matches. None of it can be missed.
                    return self
                message = f"no gateway answered within {self._timeout:g} s"
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
        """Ends the stream."""
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobEvent:
        # What has come already is there for the taking.
        if not self._events and not await self.ready():
            raise StopAsyncIteration
        return self.take()

    async def ready(self) -> bool:
        """Waits until an event can be taken; False when it was closed and there are no more.

        Raises:
            CallError: the stream was refused, or could not be resumed in time.
        """
        while not self._events:
            if not await self._receive():
                return False
        return True

    def take(self) -> JobEvent:
        """Yields the event that `ready` has waited for."""
        event = from_event(self._events[0])
        self._events.popleft()
        self._yielded += 1
        if not self._events:
            self._settle()
        return event

    @property
    def _resumable(self) -> bool:
        """Whether a stream that is begun later misses nothing."""
        return bool(self.cursor)

    @abstractmethod
    def _start(self, gateway: Gateway) -> aio.UnaryStreamCall[Any, Any]:
        """Begins the stream behind `cursor`."""

    def _arrived(self, response: Response, *, news: bool) -> None:  # noqa: B027  # may do nothing
        """Takes in what else a response says.

        Args:
            response: the response.
            news: it has an event that has not been yielded.
        """

    async def _receive(self) -> bool:
        response = await self._stream.next(self._start)
        if response is None:
            return False
        self._response = response
        self._events.extend(self._seen.new(response.events))
        if self._events:
            self._stream.progressed()
        self._arrived(response, news=bool(self._events))
        self._settle()
        return True

    def _settle(self) -> None:
        """Once every event of the last response has been yielded, it is dealt with."""
        if self._events or self._response is None:
            return
        if not self._replaying:
            # Its cursor stands behind its last event.
            self._settled = self._yielded
            self.cursor = self._response.cursor or self.cursor
        if self._response.mark == job_service_pb2.WATCH_MARK_CAUGHT_UP:
            self.caught_up = True
        self._response = None


class _Seen:
    """The newest event of each job that was seen lately."""

    def __init__(self) -> None:
        self._seqs: OrderedDict[str, int] = OrderedDict()

    def new(self, events: Iterable[event_pb2.JobEvent]) -> list[event_pb2.JobEvent]:
        """Those of some events that were not seen before; they are remembered."""
        seqs, new = self._seqs, []
        for event in events:
            job_id, seq = event.job_id, event.seq
            if seq > seqs.get(job_id, 0):
                seqs[job_id] = seq
                seqs.move_to_end(job_id)
                new.append(event)
        while len(seqs) > _REMEMBERED_JOBS:
            seqs.popitem(last=False)
        return new
