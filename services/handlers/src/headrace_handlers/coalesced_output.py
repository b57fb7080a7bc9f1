"""Many small pieces of text, emitted as a few larger ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

# Each piece of output is a row of job_events, so a model's tokens are not emitted one by one.
INTERVAL = 0.25
PIECE = 8_000


class CoalescedOutput:
    """Emits the first text at once, and what comes after it at most every `interval` seconds.

        async with CoalescedOutput(ctx.emit) as output:
            async for token in tokens:
                output.write(token)

    Everything written has been emitted when the block is left. When it is left by an error, what
    was still held back is dropped.

    Args:
        emit: takes a piece of at most PIECE characters.
        interval: seconds from one emission to the next.
    """

    def __init__(
        self, emit: Callable[[object], Awaitable[None]], *, interval: float = INTERVAL
    ) -> None:
        self._emit = emit
        self._interval = interval
        self._held: list[str] = []
        self._written = asyncio.Event()
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._ended.set()
            self._written.set()
        else:
            self._task.cancel()
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if not self._task.cancelled():
            failure = self._task.exception()
            if failure is not None and error is None:
                raise failure

    def write(self, text: str) -> None:
        """Takes a text, without waiting.

        Raises:
            Exception: what `emit` raised for an earlier one.
        """
        if self._task.done():
            self._task.result()
        self._held.append(text)
        self._written.set()

    async def _run(self) -> None:
        while not (self._ended.is_set() and not self._held):
            await self._written.wait()
            self._written.clear()
            text = "".join(self._held)
            self._held.clear()
            for start in range(0, len(text), PIECE):
                await self._emit(text[start : start + PIECE])
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), self._interval)
