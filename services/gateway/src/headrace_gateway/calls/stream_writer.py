"""Writing a stream, for as long as somebody reads it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc.aio
from google.protobuf.message import Message

from headrace_core.domain.errors import SlowConsumer

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class StreamWriter:
    """Writes the responses of one call, in a `with` block of the task that handles it.

    A client that does not read takes no more once its HTTP/2 window is full, which has at least
    64 KiB; a write then waits for it. Meanwhile nothing else of the stream moves. A timer that is
    rarely set looks after that, since a message should not pay for a timer of its own.

    Args:
        context: of the call.
        request: of the call; it says where the stream begins.
        patience: how long a write may take, in seconds.
    """

    def __init__(self, context: _Context, *, request: Message, patience: float) -> None:
        self._context = context
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._place = _Place(request)
        self._task: asyncio.Task[Any] | None = None
        # When the write began that is going on, and whether it has taken too long.
        self._began: float | None = None
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

    async def write(self, response: Message) -> None:
        """Writes a response.

        Raises:
            SlowConsumer: the client did not take it in time.
        """
        self._began = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._look)
        try:
            await self._context.write(response)
        except asyncio.CancelledError:
            # The end of the call may have come as well; that one is not ours.
            if self._late and self._task is not None and not self._task.uncancel():
                raise SlowConsumer(self._patience, self._place.value) from None
            raise
        except grpc.aio.InternalError:
            # The client is gone, and its cancellation is on its way.
            raise asyncio.CancelledError from None
        finally:
            self._began = None
        self._place.pass_by(response)

    def _look(self) -> None:
        """Ends a write that has taken too long."""
        self._timer = None
        if self._began is None:
            return
        left = self._began + self._patience - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        elif self._task is not None:
            # The message stays with gRPC: who reads again gets it, and the error behind it.
            self._late = True
            self._task.cancel()


class _Place:
    """Where a stream is resumed: in one of the ways of the requests for streams."""

    def __init__(self, request: Message) -> None:
        by_number = "after_seq" in request.DESCRIPTOR.fields_by_name
        self._field = "after_seq" if by_number else "cursor"
        self._value: Any = getattr(request, self._field, "")

    def pass_by(self, response: Any) -> None:
        """Moves behind a response."""
        if self._field == "cursor":
            self._value = response.cursor or self._value
        elif response.events:
            self._value = response.events[-1].seq

    @property
    def value(self) -> tuple[str, str]:
        return self._field, str(self._value)
