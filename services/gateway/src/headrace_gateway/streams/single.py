"""A stream of one job's events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.domain.lifecycle import TERMINAL
from headrace_core.store.event_log import list_events
from headrace_core.store.jobs.read import get_job
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.history import History
from headrace_gateway.streams.messages import MAX_EVENTS, next_mark, pack
from headrace_gateway.streams.routing import Mailbox, Routes
from headrace_gateway.streams.tail import Tail

# The maximum number of events on a page. The store also limits the bytes of a page.
_MAX_PAGE_EVENTS: Final = 200


class JobStream:
    """Follows one job: its past from PostgreSQL, then the events that the tail routes.

    The stream opens the mailbox before it reads the past, so no event is missed between them. Event
    numbers reveal duplicates and gaps. After a gap the stream reads from PostgreSQL again.

    Args:
        tenant: the tenant of the job.
        job_id: the job.
        after_seq: the number of the last event that the client has seen. Events up to this number
            are not sent, even if they do not exist yet.
        tail: fills the mailbox.
        routes: opens the mailbox.
        history: reads the past.
        gauges: counts catch-ups and gaps.
        idle: longest time without a message, in seconds.
    """

    def __init__(
        self,
        *,
        tenant: str,
        job_id: JobId,
        after_seq: int,
        tail: Tail,
        routes: Routes,
        history: History,
        gauges: Gauges,
        idle: float,
    ) -> None:
        self._tenant = tenant
        self._job_id = job_id
        self._after_seq = self._last_seq = after_seq
        self._tail = tail
        self._routes = routes
        self._history = history
        self._gauges = gauges
        self._idle = idle
        self._clock = asyncio.get_running_loop().time
        self._live = False
        self._ended = False

    async def run(self) -> AsyncGenerator[list[JobEvent], None]:
        """Yield events to send, until the job has ended.

        An empty list is a mark: the stream is open, and the job has no new events.

        Raises:
            JobNotFound: the tenant has no such job.
            Unavailable: the past cannot be read.
            ShuttingDown: the gateway is shutting down.
        """
        with self._routes.open_for_job(self._job_id) as mailbox:
            await self._tail.wait_until_ready()
            if self._last_seq:
                self._gauges.resumes += 1
            mark_due = self._next_mark()
            while not self._ended:
                live = self._live
                events = await (
                    self._take_routed(mailbox, mark_due) if live else self._read_past(mailbox)
                )
                if events and events[0].seq <= self._after_seq:
                    events = [event for event in events if event.seq > self._after_seq]
                if events:
                    mark_due = self._next_mark()
                elif live and self._clock() >= mark_due and not self._ended:
                    mark_due = self._next_mark()
                    yield []
                for packed in pack(events):
                    mailbox.oldest_sending = self._gauges.send_due_time(packed if live else ())
                    yield packed
                    mailbox.oldest_sending = None
                    if live:
                        self._gauges.count_sent(packed)

    async def _read_past(self, mailbox: Mailbox) -> Sequence[JobEvent]:
        """Return a page of the events after the last sent event."""
        mailbox.check()
        async with self._history.reading() as conn:
            page = await list_events(
                conn,
                tenant=self._tenant,
                job_id=self._job_id,
                after_seq=self._last_seq,
                limit=_MAX_PAGE_EVENTS,
            )
            if page.events:
                self._last_seq, state = page.events[-1].seq, page.events[-1].state
                self._live = page.complete
            else:
                job = await get_job(conn, tenant=self._tenant, job_id=self._job_id, full=False)
                # Newer events may have been written since; then another page follows.
                self._live = job.seq <= self._last_seq
                # The client may have sent a number above the job's last event.
                self._last_seq, state = min(self._last_seq, job.seq), job.state
        self._ended = self._live and state in TERMINAL
        if self._live:
            mailbox.oldest_dropped = None
        return page.events

    async def _take_routed(self, mailbox: Mailbox, mark_due: float) -> Sequence[JobEvent]:
        """Return routed events up to a gap; return none if a mark is due."""
        await mailbox.wait(max(0.0, mark_due - self._clock()))
        events: list[JobEvent] = []
        last_seq, complete = self._last_seq, not mailbox.overflowed
        for event in mailbox.take(MAX_EVENTS):
            # Skip events that `_read_past` has returned, and duplicates after an interrupted run.
            if event.seq > last_seq:
                if event.seq > last_seq + 1:
                    self._gauges.gaps += 1
                    complete = False
                    break
                events.append(event)
                last_seq = event.seq
        self._last_seq = last_seq
        if not complete:
            self._gauges.catch_ups += 1
            self._live = False
            mailbox.reopen()
        elif events:
            # If a requeue follows the terminal event, the job has not ended.
            self._ended = events[-1].state in TERMINAL and not mailbox
        return events

    def _next_mark(self) -> float:
        """Return the time at which a mark is due if nothing is sent."""
        return next_mark(self._clock(), self._idle)
