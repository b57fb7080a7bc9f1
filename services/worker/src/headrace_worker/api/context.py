"""The context of a handler: its attempt, its reports, and the completion of its job."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from numbers import Integral, Real
from typing import Any, Final, Generic, Protocol, TypeVar

from headrace_core.domain.attempt import AttemptKey, ClaimedJob
from headrace_core.domain.errors import AttemptNotCurrent
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import JsonText, Progress
from headrace_core.domain.limits import MAX_COUNTER_NAME, MAX_COUNTERS, MAX_PROGRESS_MESSAGE_BYTES
from headrace_core.domain.text import clean_text
from headrace_core.domain.trace import TRACEPARENT, TRACESTATE, TraceContext
from headrace_worker.api.errors import AlreadyCompleted, InvalidProgress, Stopped
from headrace_worker.api.payload import encode

# The range of an integer counter: 64 bits.
_INT64_RANGE: Final = range(-(2**63), 2**63)

Signal = TypeVar("Signal", asyncio.Event, threading.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The attempt that a handler executes.

    Attributes:
        job_id: the id of the job.
        number: the attempt number, which is the fencing token. It grows with each attempt of the
            job, so the receiver of a side effect can reject a number below the highest that it has
            seen.
        type, queue, tenant, labels: the values of the job.
        deadline: the time at which the attempt must end, by this machine's clock.
        ends: the same time by `time.monotonic()` in this process, in seconds.
        correlation_id: the x-request-id of the submit.
        traceparent, tracestate: the context of the attempt's span, or else the trace context of the
            submit; empty for none.
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
    traceparent: str = ""
    tracestate: str = ""

    @classmethod
    def of(cls, job: ClaimedJob, limit: timedelta, trace_context: TraceContext | None) -> Attempt:
        """Return the attempt of a claimed job, whose time ends after `limit`."""
        return cls(
            job_id=job.key.job_id,
            number=job.key.attempt,
            type=job.type,
            queue=job.queue,
            tenant=job.tenant,
            labels=job.labels,
            deadline=datetime.now(UTC) + limit,
            ends=time.monotonic() + limit.total_seconds(),
            correlation_id=job.correlation_id or "",
            traceparent="" if trace_context is None else trace_context.traceparent,
            tracestate="" if trace_context is None else trace_context.tracestate,
        )

    @property
    def trace_headers(self) -> dict[str, str]:
        """The headers with which calls to other services join the trace of `traceparent`."""
        headers = {TRACEPARENT: self.traceparent, TRACESTATE: self.tracestate}
        return {name: value for name, value in headers.items() if value}

    @property
    def key(self) -> AttemptKey:
        """The identity of the attempt."""
        return AttemptKey(self.job_id, self.number)


class Reporter(Protocol):
    """A receiver of a handler's reports. Each call returns once there is room for the report."""

    async def progress(self, progress: Progress) -> None:
        """Accept the newest progress. It may be merged with the next one."""

    async def output(self, chunk: JsonText) -> None:
        """Accept a piece of output. Each piece is stored."""

    async def prepare_completion(self, size: int) -> None:
        """Stop accepting reports: the handler is about to complete its job.

        Args:
            size: the size of the result, in bytes.
        """


def as_progress(fraction: float, message: str, counters: Mapping[str, float]) -> Progress:
    """Return valid progress, with its fraction limited to the range from 0 to 1.

    Raises:
        InvalidProgress: a value has the wrong type or exceeds its limit.
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
        fraction=min(1.0, max(0.0, float(_check_number("fraction", fraction)))),
        message=clean_text(message, MAX_PROGRESS_MESSAGE_BYTES),
        counters=encode(
            {_check_name(name): _check_number(name, number) for name, number in counters.items()}
        ),
    )


def _check_name(name: str) -> str:
    # `isprintable` also rejects lone surrogates.
    if not (0 < len(name) <= MAX_COUNTER_NAME and name.isprintable()):
        raise InvalidProgress(
            f"{name[:MAX_COUNTER_NAME]!r} is not the name of a counter; use 1 to "
            f"{MAX_COUNTER_NAME} printable characters"
        )
    return name


def _check_number(name: str, number: object) -> int | float:
    """Return a number that JSON can represent. NumPy scalars are numbers too."""
    if isinstance(number, bool) or not isinstance(number, Real):
        raise InvalidProgress(f"{name} is a {type(number).__name__}; pass an int or a float")
    if isinstance(number, Integral):
        whole = int(number)
        if whole not in _INT64_RANGE:
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
    """The part of a context that `async def` and `def` handlers share.

    Attributes:
        attempt: the attempt.
        cancel_event: set when the handler should stop.
    """

    def __init__(self, attempt: Attempt, cancel_event: Signal) -> None:
        self.attempt = attempt
        self.cancel_event: Signal = cancel_event
        self._completed = False

    @property
    def fence(self) -> int:
        """The attempt number, which is the fencing token."""
        return self.attempt.number

    @property
    def tenant(self) -> str:
        """The tenant of the job. A worker may run jobs of several tenants."""
        return self.attempt.tenant

    @property
    def correlation_id(self) -> str:
        """The x-request-id of the submit. Pass it to the services that the handler calls."""
        return self.attempt.correlation_id

    @property
    def trace_headers(self) -> dict[str, str]:
        """The headers with which calls to other services join the trace of the submit.

        They are `traceparent` and `tracestate`; empty if the submit had no trace context.
        """
        return self.attempt.trace_headers

    @property
    def deadline(self) -> datetime:
        """The time at which the attempt must end, by this machine's clock."""
        return self.attempt.deadline

    @property
    def time_left(self) -> float:
        """Seconds until the deadline; at least 0. Changes to the machine's clock have no effect.

        The deadline is the attempt's timeout or the job's deadline, whichever is earlier. Pass this
        value as the timeout of calls to other services.
        """
        return max(0.0, self.attempt.ends - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """True if the handler should stop: after a cancellation, a timeout or a deadline."""
        return self.cancel_event.is_set()

    @contextmanager
    def _explain_completion_error(self) -> Iterator[None]:
        """Raise AlreadyCompleted instead of AttemptNotCurrent after an earlier `complete_in`."""
        try:
            yield
        except AttemptNotCurrent as error:
            if self._completed:
                raise AlreadyCompleted(self.attempt.key) from error
            raise
        self._completed = True

    def raise_if_cancelled(self) -> None:
        """Raise Stopped if `cancelled` is true. Call this where the handler can stop cleanly.

        Raises:
            Stopped: the handler should stop.
        """
        if self.cancelled:
            raise Stopped


class Context(_AttemptContext[asyncio.Event]):
    """The context of an `async def` handler."""

    def __init__(self, attempt: Attempt, reporter: Reporter) -> None:
        super().__init__(attempt, asyncio.Event())
        self._reporter = reporter

    async def progress(self, fraction: float, message: str = "", **counters: float) -> None:
        """Report the progress of the attempt.

        Calls beyond ten per second are merged. The last one is always stored.

        Args:
            fraction: a number from 0 to 1. Numbers outside this range are clamped.
            message: the current step, at most 4,096 bytes of UTF-8.
            counters: the handler's own numbers, by name: at most 64, each a finite int or float of
                at most 64 bits. A name has 1 to 64 printable characters.

        Raises:
            InvalidProgress: a value has the wrong type or exceeds its limit.
        """
        await self._reporter.progress(as_progress(fraction, message, counters))

    async def emit(self, chunk: object) -> None:
        """Emit a piece of output: text, or any value that JSON can represent.

        The piece is stored, numbered, and sent to all streams that follow the job.

        Raises:
            Fail: the piece exceeds HEADRACE_MAX_OUTPUT_BYTES, or JSON cannot represent it.
        """
        await self._reporter.output(encode(chunk))

    async def complete_in(self, connection: Any, result: object = None) -> None:
        """Complete the job in the handler's own transaction.

        The handler's writes in this transaction and the end of its job are committed together, or
        not at all.

        Call this as the last statement before the commit. Later reports raise an error, and the
        return value of the handler is ignored. After a rollback the handler may start a new
        transaction and call this again. A handler that returns without a commit fails with
        `NotCommitted`, which is retried. A handler that raises after its commit has still
        succeeded.

        Args:
            connection: a connection to the jobs database, with an open transaction: an
                asyncpg Connection, a SQLAlchemy AsyncConnection or AsyncSession, or a psycopg
                AsyncConnection.
            result: the result of the job.

        Raises:
            AttemptNotCurrent: the attempt is no longer running; the transaction must not commit.
            AlreadyCompleted: the same, after an earlier call to complete_in.
            Fail: the result exceeds HEADRACE_MAX_RESULT_BYTES, or JSON cannot represent it.
            TypeError: the connection has another type.
            ValueError: the connection has no open transaction.
        """
        # Importing SQLAlchemy at module level would slow the start of handler processes.
        from headrace_core.store.jobs.complete import complete_attempt  # noqa: PLC0415

        text = encode(result)
        await self._reporter.prepare_completion(len(text.encode()))
        with self._explain_completion_error():
            await complete_attempt(connection, self.attempt.key, result=text)


class SyncContext(_AttemptContext[threading.Event]):
    """The context of a `def` handler, in its thread or its process.

    Args:
        attempt: the attempt.
        report: sends one report, and blocks until there is room for it.
        prepare_completion: like Reporter.prepare_completion.
        cancel_event: set when the handler should stop.
    """

    def __init__(
        self,
        attempt: Attempt,
        report: Callable[[Progress | JsonText], None],
        prepare_completion: Callable[[int], None],
        cancel_event: threading.Event,
    ) -> None:
        super().__init__(attempt, cancel_event)
        self._report = report
        self._prepare_completion = prepare_completion

    def progress(self, fraction: float, message: str = "", **counters: float) -> None:
        """Report progress, like Context.progress."""
        self._report(as_progress(fraction, message, counters))

    def emit(self, chunk: object) -> None:
        """Emit a piece of output, like Context.emit."""
        self._report(encode(chunk))

    def complete_in(self, connection: Any, result: object = None) -> None:
        """Complete the job, like Context.complete_in.

        Args:
            connection: a SQLAlchemy Connection or Session, or a psycopg, psycopg2, pg8000 or Django
                connection.
            result: the result of the job.
        """
        from headrace_core.store.jobs.complete import complete_attempt_sync  # noqa: PLC0415

        text = encode(result)
        self._prepare_completion(len(text.encode()))
        with self._explain_completion_error():
            complete_attempt_sync(connection, self.attempt.key, result=text)
