"""Following many jobs on one stream."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self

from headrace._calls import Calls
from headrace._convert import JSON, from_event
from headrace.errors import DeadlineExceeded, Refusal
from headrace.event import JobEvent
from headrace.v1 import job_service_pb2

# A gateway marks an idle stream at least every 15 s; four times that is no accident.
_SILENCE: Final = 60.0
# How many jobs are remembered to drop what a resumed stream repeats. What it repeats is recent.
_REMEMBERED_JOBS: Final = 65_536


class Watch:
    """The events of all jobs that match a filter, until the caller ends it.

    `async with client.watch(…) as watch:` begins to follow: once inside, no later event is missed.
    `async for event in watch:` then yields each event once, in order per job. When the connection
    is cut, the stream is resumed by itself.

    Attributes:
        cursor: where to resume after the event that was yielded last, at any gateway, also in
            another process. Several events may share a cursor: then some of them come again.
        caught_up: whether all that had happened before has been yielded; what follows is live.
    """

    def __init__(
        self, calls: Calls, *, job_filter: job_service_pb2.JobFilter, cursor: str, timeout: float
    ) -> None:
        self.cursor = cursor
        self.caught_up = False
        self._calls = calls
        self._filter = job_filter
        self._timeout = timeout
        self._seen = _Seen()
        self._items = self._follow()
        self._first: JobEvent | None = None

    async def __aenter__(self) -> Self:
        """Begins to follow.

        Raises:
            CallError: it was refused, or no gateway answered in the client's timeout.
        """
        try:
            async with asyncio.timeout(self._timeout):
                self._first = await anext(self._items, None)
        except BaseException as error:
            await self._items.aclose()
            if type(error) is TimeoutError:
                message = f"no gateway answered within {self._timeout:g} s"
                raise DeadlineExceeded(Refusal(code="DEADLINE_EXCEEDED", message=message)) from None
            raise
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
        await self._items.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobEvent:
        item, self._first = self._first, None
        while item is None:
            item = await anext(self._items)
        return item

    async def _follow(self) -> AsyncGenerator[JobEvent | None, None]:
        """Yields events, and None for a response that has none."""
        responses = self._calls.stream(
            lambda gateway: gateway.jobs.WatchJobs(
                job_service_pb2.WatchJobsRequest(
                    filter=self._filter, cursor=self.cursor, data_encoding=JSON
                )
            ),
            silence=_SILENCE,
            begin_soon=True,
        )
        async with aclosing(responses):
            async for response in responses:
                fresh = [e for e in response.events if self._seen.add(e.job_id, e.seq)]
                for event in fresh[:-1]:
                    yield from_event(event)
                # The response's cursor stands behind its last event.
                self.cursor = response.cursor or self.cursor
                if response.mark == job_service_pb2.WATCH_MARK_CAUGHT_UP:
                    self.caught_up = True
                yield from_event(fresh[-1]) if fresh else None


class _Seen:
    """The newest event of each job that was seen lately."""

    def __init__(self) -> None:
        self._seqs: OrderedDict[str, int] = OrderedDict()

    def add(self, job_id: str, seq: int) -> bool:
        """Remembers an event; False when it was seen before."""
        if seq <= self._seqs.get(job_id, 0):
            return False
        self._seqs[job_id] = seq
        self._seqs.move_to_end(job_id)
        if len(self._seqs) > _REMEMBERED_JOBS:
            self._seqs.popitem(last=False)
        return True
