"""Combine many small pieces of output into a few larger ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

# Each piece of output is a row in job_events, so a model's tokens are not emitted one by one.
# INTERVAL is in seconds, PIECE in characters.
INTERVAL = 0.25
PIECE = 8_000


class CoalescedOutput:
    """Emit the first text at once, and later text at most every `interval` seconds.

        async with CoalescedOutput(ctx.emit) as output:
            async for token in tokens:
                output.write(token)

    At the end of the block, all written text has been emitted. After an error in the block, pending
    text is dropped.

    Args:
        emit: emits a piece of at most PIECE characters.
        interval: the time between two emissions, in seconds.
    """

    def __init__(
        self, emit: Callable[[object], Awaitable[None]], *, interval: float = INTERVAL
    ) -> None:
        self._emit = emit
        self._interval = interval
        self._pending: list[str] = []
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
        """Add text to the output without waiting.

        Raises:
            Exception: the error of an earlier `emit`.
        """
        if self._task.done():
            self._task.result()
        self._pending.append(text)
        self._written.set()

    async def _run(self) -> None:
        while not (self._ended.is_set() and not self._pending):
            await self._written.wait()
            self._written.clear()
            text = "".join(self._pending)
            self._pending.clear()
            for start in range(0, len(text), PIECE):
                await self._emit(text[start : start + PIECE])
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), self._interval)
