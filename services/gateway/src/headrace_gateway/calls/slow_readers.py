"""The link `slow readers`: ends streams whose clients stopped reading."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import structlog
from google.protobuf.message import Message

from headrace_core.domain.errors import SlowConsumer
from headrace_gateway.calls.exchange import Exchange, Method, Proceed
from headrace_gateway.calls.resets import Counts, Resets

_log = structlog.get_logger()


class SlowReaders:
    """Limits the time that each response of a stream waits for its client.

    Args:
        patience: longest duration of a write, in seconds.
        counts: the counters of slow readers.
    """

    name: ClassVar[str] = "slow readers"
    needs: ClassVar[tuple[str, ...]] = ("errors", "decode")

    def __init__(self, *, patience: float, counts: Counts) -> None:
        self._patience = patience
        self._counts = counts
        self._resets = Resets(counts)

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that limits the time of each write; for unary calls, `proceed`."""
        if not method.streams_responses:
            return proceed

        async def bounded(exchange: Exchange) -> Message | None:
            try:
                with StreamWriter(
                    exchange.write, request=exchange.request, patience=self._patience
                ) as writer:
                    exchange.write = writer.write
                    exchange.place = writer.place
                    return await proceed(exchange)
            except SlowConsumer:
                self._counts.slow_consumers += 1
                # A client that reads again within this time receives the status.
                self._resets.reset_after(self._patience)
                _log.info("stream_not_read", method=method.path, patience_s=self._patience)
                raise

        return bounded


class StreamWriter:
    """Writes the responses of one call, in a `with` block of the task that handles the call.

    A write blocks the stream while the client's HTTP/2 window, of at least 64 KiB, is full. One
    timer serves many writes: a timer for each write would cost as much as the write.

    Args:
        write: sends a response.
        request: the request of the call; it contains the place where the stream starts.
        patience: longest duration of a write, in seconds.
    """

    def __init__(
        self, write: Callable[[Message], Awaitable[None]], *, request: Message, patience: float
    ) -> None:
        self._write = write
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._place = _Place(request)
        self._task: asyncio.Task[Any] | None = None
        # The start of the current write, and whether it took too long.
        self._started: float | None = None
        self._late = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def place(self) -> tuple[str, str]:
        """Return the field and the value with which a client resumes after the last response."""
        return self._place.value

    async def write(self, response: Message) -> None:
        """Write a response.

        Raises:
            SlowConsumer: the client did not read for `patience` seconds.
        """
        self._started = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._check_write)
        try:
            await self._write(response)
        except asyncio.CancelledError:
            # If the call itself was also cancelled, re-raise that cancellation.
            if self._late and self._task is not None and not self._task.uncancel():
                raise SlowConsumer(self._patience, self._place.value) from None
            raise
        finally:
            self._started = None
        self._place.advance(response)

    def _check_write(self) -> None:
        """Cancel a write that took too long."""
        self._timer = None
        if self._started is None:
            return
        left = self._started + self._patience - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_write)
        elif self._task is not None:
            # gRPC keeps the message: a client that reads again receives it, and then the status.
            self._late = True
            self._task.cancel()


class _Place:
    """The place where a client resumes a stream: the number of an event or line, or a cursor.

    The cursor stays empty for a stream that starts again from its current state.
    """

    def __init__(self, request: Message) -> None:
        fields = request.DESCRIPTOR.fields_by_name
        self._field = next((name for name in _NUMBERS if name in fields), "cursor")
        self._value: Any = getattr(request, self._field, "")

    def advance(self, response: Any) -> None:
        """Move to the place after a response."""
        match self._field:
            case "cursor":
                self._value = getattr(response, "cursor", "") or self._value
            case "after_position" if response.lines:
                self._value = response.lines[-1].position
            case "after_seq" if response.events:
                self._value = response.events[-1].seq

    @property
    def value(self) -> tuple[str, str]:
        return self._field, str(self._value)


# The fields with the number after which a stream starts.
_NUMBERS: Final = ("after_seq", "after_position")
