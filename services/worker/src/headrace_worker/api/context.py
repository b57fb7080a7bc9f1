"""What a running handler knows and says about its attempt."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from numbers import Integral, Real
from typing import Any, Final, Generic, Protocol, TypeVar

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import AttemptNotCurrent
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import (
    MAX_COUNTER_NAME,
    MAX_COUNTERS,
    MAX_PROGRESS_MESSAGE_BYTES,
    JsonText,
    Progress,
)
from headrace_core.domain.text import clean_text
from headrace_worker.api.errors import AlreadyCompleted, InvalidProgress, Stopped
from headrace_worker.api.payload import encode

# The integers of a counter: what 64 bits hold.
_INTEGERS: Final = range(-(2**63), 2**63)

Signal = TypeVar("Signal", asyncio.Event, threading.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The attempt that a handler runs.

    `number` is the fence: it grows with each start of the job, so whatever stands behind a side
    effect can refuse a number below the highest that it has seen. `deadline` is when the attempt's
    time is up by this machine's clock, `ends` the same by `time.monotonic()` of this process, in
    seconds. `correlation_id` is the x-request-id of the submit.
    """

    job_id: JobId
    number: int
    type: str
    queue: str
    tenant: str
    labels: Mapping[str, str]
    deadline: datetime
    ends: float
    correlation_id: str = ""

    @property
    def key(self) -> AttemptKey:
        """The identity of the attempt."""
        return AttemptKey(self.job_id, self.number)


class Reporter(Protocol):
    """Takes what a handler reports; each call returns once there is room for it."""

    async def progress(self, progress: Progress) -> None:
        """Takes the newest progress; it may be merged with the next."""

    async def output(self, chunk: JsonText) -> None:
        """Takes a piece of output; each one is kept."""

    async def completing(self, size: int) -> None:
        """Takes nothing more: the handler finishes its job by itself.

        Args:
            size: of the result, in bytes.
        """


def as_progress(fraction: float, message: str, counters: Mapping[str, float]) -> Progress:
    """Progress as the store takes it, its fraction held to 0 … 1.

    Raises:
        InvalidProgress: a value is of the wrong kind or beyond its limit.
    """
    if type(message) is not str:
        raise InvalidProgress(f"the message is a {type(message).__name__}; pass a str")
    size = len(message.encode(errors="replace"))
    if size > MAX_PROGRESS_MESSAGE_BYTES:
        raise InvalidProgress(
            f"the message has {size} bytes; at most {MAX_PROGRESS_MESSAGE_BYTES} are allowed"
        )
    if len(counters) > MAX_COUNTERS:
        raise InvalidProgress(f"{len(counters)} counters; at most {MAX_COUNTERS} are allowed")
    return Progress(
        fraction=min(1.0, max(0.0, float(_finite("fraction", fraction)))),
        message=clean_text(message, MAX_PROGRESS_MESSAGE_BYTES),
        counters=encode({_name(name): _finite(name, number) for name, number in counters.items()}),
    )


def _name(name: str) -> str:
    # A lone surrogate is not printable either.
    if not (0 < len(name) <= MAX_COUNTER_NAME and name.isprintable()):
        raise InvalidProgress(
            f"{name[:MAX_COUNTER_NAME]!r} is not the name of a counter; use 1 to "
            f"{MAX_COUNTER_NAME} printable characters"
        )
    return name


def _finite(name: str, number: object) -> int | float:
    """A number as JSON represents it. NumPy's scalars are numbers too."""
    if isinstance(number, bool) or not isinstance(number, Real):
        raise InvalidProgress(f"{name} is a {type(number).__name__}; pass an int or a float")
    if isinstance(number, Integral):
        whole = int(number)
        if whole not in _INTEGERS:
            raise InvalidProgress(f"{name} needs more than 64 bits; pass a smaller int or a float")
        return whole
    try:
        real = float(number)
    except OverflowError:
        real = math.inf
    if not math.isfinite(real):
        raise InvalidProgress(f"{name} is {real}; pass a finite number")
    return real


class _AttemptContext(Generic[Signal]):
    """What both kinds of handlers know of their attempt.

    `cancel_event` is set when the handler shall stop.
    """

    def __init__(self, attempt: Attempt, cancel_event: Signal) -> None:
        self.attempt = attempt
        self.cancel_event: Signal = cancel_event
        self._completed = False

    @property
    def fence(self) -> int:
        """The attempt's number."""
        return self.attempt.number

    @property
    def correlation_id(self) -> str:
        """The x-request-id of the submit; pass it on to the services that the handler calls."""
        return self.attempt.correlation_id

    @property
    def deadline(self) -> datetime:
        """When the attempt's time is up."""
        return self.attempt.deadline

    @property
    def time_left(self) -> float:
        """Seconds until then, whatever this machine's clock does; never negative.

        It is the attempt's timeout or the job's deadline, whichever comes first: what to give to a
        call of something else.
        """
        return max(0.0, self.attempt.ends - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether the job's cancellation was asked for, or its time is up."""
        return self.cancel_event.is_set()

    @contextmanager
    def _completing(self) -> Iterator[None]:
        """Names the likely reason when a second `complete_in` is refused."""
        try:
            yield
        except AttemptNotCurrent as error:
            if self._completed:
                raise AlreadyCompleted(self.attempt.key) from error
            raise
        self._completed = True

    def raise_if_cancelled(self) -> None:
        """Leaves the handler when `cancelled` is true; call it where stopping is clean.

        Raises:
            Stopped: the handler shall stop.
        """
        if self.cancelled:
            raise Stopped


class Context(_AttemptContext[asyncio.Event]):
    """What an `async def` handler is given."""

    def __init__(self, attempt: Attempt, reporter: Reporter) -> None:
        super().__init__(attempt, asyncio.Event())
        self._reporter = reporter

    async def progress(self, fraction: float, message: str = "", **counters: float) -> None:
        """Report how far the attempt is.

        Calls that come faster than 10 a second are merged, and the last one is always kept.

        Args:
            fraction: 0 to 1; a number beyond is taken for the nearer of the two.
            message: what the attempt is doing, at most 4,096 bytes of UTF-8.
            counters: numbers of the handler's own, by name: at most 64, each a finite int or float
                of at most 64 bits, its name 1 to 64 printable characters.

        Raises:
            InvalidProgress: a value is of another kind, or beyond its limit.
        """
        await self._reporter.progress(as_progress(fraction, message, counters))

    async def emit(self, chunk: object) -> None:
        """Emits a piece of output: text, or anything that JSON can say.

        It is kept, numbered and pushed to whoever watches the job.

        Raises:
            Fail: the piece is larger than HEADRACE_MAX_OUTPUT_BYTES, or JSON cannot say it.
        """
        await self._reporter.output(encode(chunk))

    async def complete_in(self, connection: Any, result: object = None) -> None:
        """Finishes the job in a transaction of the handler's own, so that what the handler writes
        there and the end of its job are one: both are committed, or none.

        It is the last thing to do before the commit: nothing can be reported afterwards, and what
        the handler returns is ignored. A transaction that was rolled back may be begun again, and
        completed again. A handler that returns without a commit has failed (`NotCommitted`, which
        is tried again); one that raises after its commit has succeeded.

        Args:
            connection: to the database of the jobs, with its transaction open: asyncpg's
                Connection, SQLAlchemy's AsyncConnection or AsyncSession, psycopg's AsyncConnection.
            result: of the job; what else a handler returns.

        Raises:
            AttemptNotCurrent: the attempt is no longer running; the transaction must not commit.
            AlreadyCompleted: the same, after an earlier call of complete_in.
            Fail: the result is larger than HEADRACE_MAX_RESULT_BYTES, or JSON cannot say it.
            TypeError: it is no such connection.
            ValueError: it has no transaction open.
        """
        # A process of an isolated handler has no use for SQLAlchemy before this.
        from headrace_core.store.jobs.complete import complete_attempt  # noqa: PLC0415

        text = encode(result)
        await self._reporter.completing(len(text.encode()))
        with self._completing():
            await complete_attempt(connection, self.attempt.key, result=text)


class SyncContext(_AttemptContext[threading.Event]):
    """What a plain `def` handler is given, in its thread or its process.

    `report` delivers one item and blocks until there is room for it; `completing` announces a
    result of so many bytes, as Reporter.completing.
    """

    def __init__(
        self,
        attempt: Attempt,
        report: Callable[[Progress | JsonText], None],
        completing: Callable[[int], None],
        cancel_event: threading.Event,
    ) -> None:
        super().__init__(attempt, cancel_event)
        self._report = report
        self._announce = completing

    def progress(self, fraction: float, message: str = "", **counters: float) -> None:
        """As Context.progress."""
        self._report(as_progress(fraction, message, counters))

    def emit(self, chunk: object) -> None:
        """As Context.emit."""
        self._report(encode(chunk))

    def complete_in(self, connection: Any, result: object = None) -> None:
        """As Context.complete_in.

        Args:
            connection: SQLAlchemy's Connection or Session, or a connection of psycopg, psycopg2,
                pg8000 or Django.
            result: as there.
        """
        from headrace_core.store.jobs.complete import complete_attempt_sync  # noqa: PLC0415

        text = encode(result)
        self._announce(len(text.encode()))
        with self._completing():
            complete_attempt_sync(connection, self.attempt.key, result=text)
