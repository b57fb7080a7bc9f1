"""What a running attempt says, on its way to the database."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.errors import AttemptNotCurrent
from headrace_core.domain.job import JsonText, Progress
from headrace_worker.api.errors import SizeExceeded

_log = structlog.get_logger()

# Progress that comes faster is merged: at most ten events a second and job.
_INTERVAL_S = 0.1


class AttemptLost(Exception):
    """The attempt is no longer this worker's: what it says is not taken any more."""


class AttemptReporter:
    """The Reporter of one attempt.

    Args:
        key: the attempt.
        write: persists a report, through faults of the database; False when the attempt is no
            longer this worker's.
        max_output_bytes: the largest piece of output.
        max_result_bytes: the largest result.

    Attributes:
        completes: whether the handler finishes its job itself, in a transaction of its own.
    """

    def __init__(
        self,
        *,
        key: AttemptKey,
        write: Callable[[AttemptReport], Awaitable[bool]],
        max_output_bytes: int,
        max_result_bytes: int,
    ) -> None:
        self._key = key
        self._write = write
        self._max_output_bytes = max_output_bytes
        self._max_result_bytes = max_result_bytes
        self._context = contextvars.copy_context()
        self.completes = False
        self._over = False
        self._latest: Progress | None = None
        self._writer: asyncio.Task[None] | None = None
        self._lost = False
        self._turn = asyncio.Lock()
        # One report after the other, so that each has its number.
        self._one = asyncio.Lock()
        # How many have been written; None when that is not known any more.
        self._written: int | None = 0
        self._closing = asyncio.Event()

    async def progress(self, progress: Progress) -> None:
        """Takes the newest progress; it is written in the background.

        Raises:
            AttemptLost: an earlier report was refused.
        """
        self._check()
        self._latest = progress
        if self._writer is None:
            # The worker's task, not the handler's that reports.
            self._writer = asyncio.create_task(self._write_progress(), context=self._context.copy())

    async def output(self, chunk: JsonText) -> None:
        """Writes a piece of output; returns once it is durable.

        Raises:
            SizeExceeded: it is.
            AttemptLost: this report or an earlier one was refused.
        """
        self._check()
        size = len(chunk.encode())
        if size > self._max_output_bytes:
            raise SizeExceeded(
                "a piece of output",
                size=size,
                limit=self._max_output_bytes,
                setting="HEADRACE_MAX_OUTPUT_BYTES",
            )
        # One at a time: a handler that emits many at once shall not fill the queue of all.
        async with self._turn:
            # What was said before comes before.
            await self._flush()
            await self._report(output=chunk)
        self._check()

    async def completing(self, size: int) -> None:
        """Writes what was reported, and takes nothing more: from the handler's statement to its
        commit the job's row is locked, and a report would wait for the handler that waits for it.

        Raises:
            SizeExceeded: the result is.
            AttemptNotCurrent: the attempt is over, or an earlier report was refused.
        """
        if size > self._max_result_bytes:
            raise SizeExceeded(
                "the result",
                size=size,
                limit=self._max_result_bytes,
                setting="HEADRACE_MAX_RESULT_BYTES",
            )
        if not self._over:
            self.completes = True
            async with self._turn:
                await self.close()
        # A handler that was left behind comes too late.
        if self._over or self._lost:
            raise AttemptNotCurrent(self._key)

    def end(self) -> None:
        """The attempt is over: whatever its handler does is no business of this worker any more."""
        self._over = True

    @property
    def idle(self) -> bool:
        """Whether there is nothing to write."""
        return self._latest is None and self._writer is None

    async def close(self) -> None:
        """Writes the last progress, even when whoever waits for it is cancelled meanwhile."""
        self._closing.set()
        if self._writer is not None:
            await asyncio.wait({self._writer})

    def _check(self) -> None:
        if self._lost:
            raise AttemptLost
        if self.completes:
            raise RuntimeError("nothing can be reported after complete_in")

    async def _write_progress(self) -> None:
        # It waits first, so that a job that is soon done has one event of progress and not two.
        try:
            while self._latest is not None and not self._lost and not self._closing.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_INTERVAL_S):
                        await self._closing.wait()
                await self._flush()
            # What came while the one before was written, or right before the end.
            await self._flush()
        finally:
            self._writer = None

    async def _flush(self) -> None:
        latest, self._latest = self._latest, None
        if latest is None or self._lost:
            return
        try:
            await self._report(progress=latest)
        except Exception:  # noqa: BLE001 - what the database refuses decides about no attempt
            job_id, attempt = self._key
            _log.exception("progress_refused", job_id=str(job_id), attempt=attempt)

    async def _report(
        self, *, progress: Progress | None = None, output: JsonText | None = None
    ) -> None:
        async with self._one:
            number = None if self._written is None else self._written + 1
            # Who is cancelled now, or refused, learns no more whether it was written.
            self._written = None
            report = AttemptReport(key=self._key, progress=progress, output=output, number=number)
            taken = await self._write(report)
            self._written = number
        if not taken:
            self._lost = True
