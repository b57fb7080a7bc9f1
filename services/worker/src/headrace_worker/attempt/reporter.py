"""The reports of one attempt: its progress, which is merged, and its output."""

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
from headrace_worker.attempt.judge import Limits

_log = structlog.get_logger()


class AttemptLost(Exception):
    """A report was refused, because another worker may have the attempt."""


class AttemptReporter:
    """The Reporter of one attempt.

    Args:
        key: the attempt.
        write: persists a report, and retries while the database is unavailable; returns False if
            another worker may have the attempt.
        flush_log: tries to write the log lines of the attempt at once.
        limits: the limits of results and output.
        merge_s: the interval within which progress reports are merged, in seconds.

    Attributes:
        completes: True if the handler ends the job in its own transaction.
    """

    def __init__(
        self,
        *,
        key: AttemptKey,
        write: Callable[[AttemptReport], Awaitable[bool]],
        flush_log: Callable[[AttemptKey], Awaitable[None]],
        limits: Limits,
        merge_s: float,
    ) -> None:
        self._key = key
        self._write = write
        self._flush_log = flush_log
        self._limits = limits
        self._merge_s = merge_s
        self._context = contextvars.copy_context()
        self.completes = False
        self._has_ended = False
        self._latest: Progress | None = None
        self._writer: asyncio.Task[None] | None = None
        self._lost = False
        # A handler that emits many pieces at once must not fill the shared queue of all attempts.
        self._turn = asyncio.Lock()
        # One report at a time, so that each gets its own number.
        self._numbering = asyncio.Lock()
        # The number of written reports; None if unknown.
        self._written: int | None = 0
        self._closing = asyncio.Event()

    async def progress(self, progress: Progress) -> None:
        """Accept the newest progress; a background task writes it.

        Raises:
            AttemptLost: an earlier report was refused.
        """
        self._check_open()
        self._latest = progress
        if self._writer is None:
            # The task belongs to the worker, not to the handler.
            self._writer = asyncio.create_task(self._write_progress(), context=self._context.copy())

    async def output(self, chunk: JsonText) -> None:
        """Write a piece of output; return once it is durable.

        Raises:
            SizeExceeded: the piece is too large.
            AttemptLost: this report or an earlier one was refused.
        """
        self._check_open()
        size = len(chunk.encode())
        if size > self._limits.output_bytes:
            raise SizeExceeded(
                "a piece of output",
                size=size,
                limit=self._limits.output_bytes,
                setting="HEADRACE_MAX_OUTPUT_BYTES",
            )
        async with self._turn:
            # Earlier progress precedes the output in the history.
            await self._flush()
            await self._report(output=chunk)
        self._check_open()

    async def prepare_completion(self, size: int) -> None:
        """Write the pending progress, and stop accepting reports.

        The handler's transaction locks the job's row from the completion to the commit. A later
        report would wait for this lock while the handler waits for the report.

        Args:
            size: the size of the result, in bytes.

        Raises:
            SizeExceeded: the result is too large.
            AttemptNotCurrent: the attempt has ended, or an earlier report was refused.
        """
        if size > self._limits.result_bytes:
            raise SizeExceeded(
                "the result",
                size=size,
                limit=self._limits.result_bytes,
                setting="HEADRACE_MAX_RESULT_BYTES",
            )
        if not self._has_ended:
            self.completes = True
            async with self._turn:
                await self.close()
            # A reader that sees the end of the job then also sees the lines before it.
            await self._flush_log(self._key)
        # The attempt may have ended while its handler was still running.
        if self._has_ended or self._lost:
            raise AttemptNotCurrent(self._key)

    def end(self) -> None:
        """Mark the attempt as ended. Its handler can no longer complete the job."""
        self._has_ended = True

    @property
    def idle(self) -> bool:
        """True if no report is pending."""
        return self._latest is None and self._writer is None

    async def close(self) -> None:
        """Write the last progress, even if the caller is cancelled."""
        self._closing.set()
        if self._writer is not None:
            await asyncio.wait({self._writer})

    def _check_open(self) -> None:
        if self._lost:
            raise AttemptLost
        if self.completes:
            raise RuntimeError("a handler cannot report after complete_in")

    async def _write_progress(self) -> None:
        # The pause precedes the write, so a short job has one progress event instead of two.
        try:
            while self._latest is not None and not self._lost and not self._closing.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._merge_s):
                        await self._closing.wait()
                await self._flush()
            # Write progress that arrived during the last write, or right before the end.
            await self._flush()
        finally:
            self._writer = None

    async def _flush(self) -> None:
        latest, self._latest = self._latest, None
        if latest is None or self._lost:
            return
        try:
            await self._report(progress=latest)
        except Exception:  # noqa: BLE001 - refused progress must not end an attempt
            job_id, attempt = self._key
            _log.exception("progress_refused", job_id=str(job_id), attempt=attempt)

    async def _report(
        self, *, progress: Progress | None = None, output: JsonText | None = None
    ) -> None:
        async with self._numbering:
            number = None if self._written is None else self._written + 1
            # After a cancellation or an exception, the report may or may not have been written.
            self._written = None
            report = AttemptReport(key=self._key, progress=progress, output=output, number=number)
            written = await self._write(report)
            self._written = number
        if not written:
            self._lost = True
