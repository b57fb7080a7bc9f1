"""Routes events to the mailboxes of streams; the cost grows only with the matching streams."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from headrace_core.domain.errors import HeadraceError
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JobEvent
from headrace_core.domain.query import JobFilter
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.messages import weigh

Predicate = Callable[[JobEvent], bool]

# A route key: its kind and its values.
Key = tuple[Hashable, ...]


def compile_filter(tenant: str, job_filter: JobFilter) -> Predicate:
    """Return a predicate for the tenant's events that match all fields of the filter."""
    checks: list[Predicate] = [lambda event: event.tenant == tenant]
    if job_ids := job_filter.job_ids:
        checks.append(lambda event: event.job_id in job_ids)
    if batch_id := job_filter.batch_id:
        checks.append(lambda event: event.batch_id == batch_id)
    if queues := job_filter.queues:
        checks.append(lambda event: event.queue in queues)
    if types := job_filter.types:
        checks.append(lambda event: event.job_type in types)
    if states := job_filter.states:
        checks.append(lambda event: event.state in states)
    if labels := dict(job_filter.labels):
        checks.append(lambda event: labels.items() <= event.labels.items())

    def matches(event: JobEvent) -> bool:
        # A loop, because all() with a generator takes as long as three checks.
        for check in checks:  # noqa: SIM110
            if not check(event):
                return False
        return True

    return matches


def keys_of_filter(tenant: str, job_filter: JobFilter) -> list[Key]:
    """Return the keys of the filter's narrowest field; a matching event has exactly one of them."""
    if job_filter.job_ids:
        return [("job", job_id) for job_id in job_filter.job_ids]
    if job_filter.batch_id:
        return [("batch", job_filter.batch_id)]
    if job_filter.labels:
        return [("label", tenant, *min(job_filter.labels.items()))]
    if job_filter.queues:
        return [("queue", tenant, queue) for queue in job_filter.queues]
    if job_filter.types:
        return [("type", tenant, job_type) for job_type in job_filter.types]
    return [("tenant", tenant)]


def keys_of_event(event: JobEvent) -> Iterator[Key]:
    """Yield the keys of all filters that may match the event."""
    for keys_of in KEYS_OF_EVENT.values():
        yield from keys_of(event)


# Functions that return an event's keys of one kind. The kind is the first part of a key.
KEYS_OF_EVENT: Final[Mapping[Hashable, Callable[[JobEvent], Sequence[Key]]]] = {
    "tenant": lambda event: (("tenant", event.tenant),),
    "job": lambda event: (("job", event.job_id),),
    "queue": lambda event: (("queue", event.tenant, event.queue),),
    "type": lambda event: (("type", event.tenant, event.job_type),),
    "batch": lambda event: (("batch", event.batch_id),) if event.batch_id else (),
    "label": lambda event: [("label", event.tenant, *label) for label in event.labels.items()],
}


class Mailbox:
    """Holds a stream's events until the stream takes them.

    The tail never waits for a stream. A full mailbox drops all its events, and its stream reads
    them from PostgreSQL.

    Args:
        max_events: the maximum number of events.
        max_characters: the maximum number of characters in their documents; a single event may
            exceed it.
    """

    __slots__ = (
        *("_changed", "_error", "_events", "_max_events", "_max_characters", "_weight"),
        *("oldest_dropped", "oldest_sending", "overflowed"),
    )

    def __init__(self, *, max_events: int, max_characters: int) -> None:
        self._max_events = max_events
        self._max_characters = max_characters
        self._events: list[JobEvent] = []
        self._weight = 0
        self._changed = asyncio.Event()
        self._error: HeadraceError | None = None
        # True after the mailbox has dropped events. It then ignores new events until it is
        # reopened.
        self.overflowed = False
        # The time of the oldest dropped event, in seconds since 1970 by the database's clock; None
        # once the stream has caught up.
        self.oldest_dropped: float | None = None
        # The time of the oldest event that is being sent; None if no event is being sent.
        self.oldest_sending: float | None = None

    @property
    def oldest(self) -> float | None:
        """The time of the oldest unsent event; None if all events were sent.

        Any thread may read it.
        """
        moments = [self.oldest_dropped, self.oldest_sending]
        with suppress(IndexError):
            moments.append(self._events[0].time.timestamp())
        return min((moment for moment in moments if moment is not None), default=None)

    def __bool__(self) -> bool:
        """Return whether the mailbox holds events."""
        return bool(self._events)

    def put(self, *events: JobEvent) -> None:
        """Add events; never wait."""
        if self.overflowed:
            return
        self._events.extend(events)
        for event in events:
            self._weight += weigh(event)
        held = len(self._events)
        if held > self._max_events or (self._weight > self._max_characters and held > 1):
            self.overflow()
        self._changed.set()

    def overflow(self) -> None:
        """Drop all events, so the stream continues from PostgreSQL."""
        if self._events and self.oldest_dropped is None:
            self.oldest_dropped = self._events[0].time.timestamp()
        self.overflowed = True
        self._clear()
        self._changed.set()

    def take(self, limit: int) -> list[JobEvent]:
        """Remove up to `limit` events and return them, the oldest first."""
        if len(self._events) <= limit:
            taken, self._events, self._weight = self._events, [], 0
            return taken
        taken = self._events[:limit]
        del self._events[:limit]
        self._weight -= sum(map(weigh, taken))
        return taken

    def reopen(self) -> None:
        """Open the empty mailbox again after an overflow."""
        self._clear()
        self.overflowed = False

    def _clear(self) -> None:
        self._events.clear()
        self._weight = 0

    def wake(self) -> None:
        """End the wait of the stream."""
        self._changed.set()

    def fail(self, error: HeadraceError) -> None:
        """End the stream with an error at its next wait."""
        self._error = error
        self._changed.set()

    def check(self) -> None:
        """Raise the error that ends the stream, if any."""
        if self._error is not None:
            raise self._error

    async def wait(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - until a mark is due
        """Wait for events or an overflow, at most `timeout` seconds.

        Without a timeout, only an event, an overflow, `fail` or the end of the call ends the wait.

        Raises:
            HeadraceError: ends the stream.
        """
        self._changed.clear()
        self.check()
        if self._events or self.overflowed:
            return
        timer = None
        if timeout is not None:
            # The timer ends the wait like an event; asyncio.timeout would cancel it and raise.
            timer = asyncio.get_running_loop().call_later(timeout, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self.check()


class Routes:
    """The mailboxes of all open streams.

    Args:
        max_events: the maximum number of events in a mailbox.
        max_characters: the maximum number of characters in their documents.
        gauges: counts the streams.
    """

    def __init__(self, *, max_events: int, max_characters: int, gauges: Gauges) -> None:
        self._max_events = max_events
        self._max_characters = max_characters
        self._gauges = gauges
        self._by_job: dict[JobId, set[Mailbox]] = {}
        self._by_tenant: dict[str, set[Mailbox]] = {}
        self._by_key: dict[Key, dict[Mailbox, Predicate]] = {}
        # The number of open streams by kind of key. Kinds without streams are skipped.
        self._kinds: Counter[Hashable] = Counter()
        self._mailboxes: set[Mailbox] = set()
        self._opened = asyncio.Event()
        self._close_error: HeadraceError | None = None

    def __bool__(self) -> bool:
        """Return whether any stream is open."""
        return bool(self._mailboxes)

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109 - every caller needs a limit
        """Wait until a stream is open, at most `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._opened.wait()

    @contextmanager
    def open_for_job(self, job_id: JobId) -> Iterator[Mailbox]:
        """Open a mailbox that receives a job's events when they become visible."""
        with self._mailbox() as mailbox:
            self._by_job.setdefault(job_id, set()).add(mailbox)
            self._gauges.job_streams += 1
            try:
                yield mailbox
            finally:
                self._gauges.job_streams -= 1
                mailboxes = self._by_job[job_id]
                mailboxes.discard(mailbox)
                if not mailboxes:
                    del self._by_job[job_id]

    @contextmanager
    def open_for_tenant(self, tenant: str) -> Iterator[Mailbox]:
        """Open a mailbox that receives a tenant's events when they become visible."""
        with self._mailbox() as mailbox:
            self._by_tenant.setdefault(tenant, set()).add(mailbox)
            try:
                yield mailbox
            finally:
                mailboxes = self._by_tenant[tenant]
                mailboxes.discard(mailbox)
                if not mailboxes:
                    del self._by_tenant[tenant]

    @contextmanager
    def open_for_filter(
        self, tenant: str, job_filter: JobFilter
    ) -> Iterator[tuple[Mailbox, Predicate]]:
        """Open a mailbox that receives matching events when they settle.

        Yields:
            The mailbox, and the predicate for matching events.
        """
        matches = compile_filter(tenant, job_filter)
        keys = keys_of_filter(tenant, job_filter)
        with self._mailbox() as mailbox:
            kind = keys[0][0]
            self._kinds[kind] += 1
            for key in keys:
                self._by_key.setdefault(key, {})[mailbox] = matches
            self._gauges.filter_streams += 1
            try:
                yield mailbox, matches
            finally:
                self._gauges.filter_streams -= 1
                self._kinds[kind] -= 1
                if not self._kinds[kind]:
                    del self._kinds[kind]
                for key in keys:
                    mailboxes = self._by_key[key]
                    del mailboxes[mailbox]
                    if not mailboxes:
                        del self._by_key[key]

    def oldest(self) -> float | None:
        """Return the time of the oldest unsent event in a mailbox. Any thread may call it.

        Returns:
            Seconds since 1970 by the database's clock; None if all events were sent.
        """
        # The copy is atomic: no other thread can interrupt it.
        moments = [mailbox.oldest for mailbox in list(self._mailboxes)]
        return min((moment for moment in moments if moment is not None), default=None)

    def route_visible(self, events: Sequence[JobEvent]) -> None:
        """Route events that have become visible."""
        if self._by_job:
            for event in events:
                for mailbox in self._by_job.get(event.job_id, ()):
                    mailbox.put(event)
        if self._by_tenant:
            for event in events:
                for mailbox in self._by_tenant.get(event.tenant, ()):
                    mailbox.put(event)

    def route_settled(self, events: Sequence[JobEvent]) -> None:
        """Route events that have settled, in the order of their places."""
        found: dict[Mailbox, list[JobEvent]] = {}
        # All keys of a stream have the same kind, so the stream receives its events in order.
        for kind in self._kinds:
            keys_of = KEYS_OF_EVENT[kind]
            for event in events:
                for key in keys_of(event):
                    for mailbox, matches in self._by_key.get(key, _NO_ROUTES).items():
                        if matches(event):
                            found.setdefault(mailbox, []).append(event)
        for mailbox, matching in found.items():
            mailbox.put(*matching)

    def overflow(self) -> None:
        """Make every open stream continue from PostgreSQL."""
        for mailbox in self._mailboxes:
            mailbox.overflow()

    def fail(self, error: HeadraceError) -> None:
        """End every open stream with an error."""
        for mailbox in self._mailboxes:
            mailbox.fail(error)

    def close(self, error: HeadraceError) -> None:
        """End every stream with an error, and reject new ones."""
        self._close_error = error
        self.fail(error)

    @contextmanager
    def _mailbox(self) -> Iterator[Mailbox]:
        if self._close_error is not None:
            raise self._close_error
        mailbox = Mailbox(max_events=self._max_events, max_characters=self._max_characters)
        self._mailboxes.add(mailbox)
        self._opened.set()
        try:
            yield mailbox
        finally:
            self._mailboxes.discard(mailbox)
            if not self._mailboxes:
                self._opened.clear()


_NO_ROUTES: dict[Mailbox, Predicate] = {}
