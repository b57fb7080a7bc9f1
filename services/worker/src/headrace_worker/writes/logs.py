"""Grouped writes of the lines that handlers log.

The log of a job never delays or fails the job: `add` does not wait, a full buffer drops lines, and
lines that the database rejects are dropped.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from typing import Final

import structlog

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.job_log import LogChunk, LogLevel, LogLine
from headrace_core.store.jobs.logs import CHUNK_BYTES, write_logs
from headrace_core.store.sql.database import Database
from headrace_worker.runners.job_log import LogBudget, LogLimits, measure
from headrace_worker.timing import Timing

_log = structlog.get_logger()

# Maximum size of the lines in one statement, and of all unwritten lines, in bytes.
_MAX_BATCH: Final = 1024 * 1024
_MAX_PENDING: Final = 16 * 1024 * 1024
# The logger of the lines that report dropped lines.
_LOGGER: Final = "headrace"


class _AttemptLog:
    """The unwritten lines of one attempt."""

    __slots__ = ("budget", "chunks", "closed", "last", "lines", "released", "size", "worker_id")

    def __init__(self, worker_id: WorkerId) -> None:
        self.worker_id = worker_id
        self.budget = LogBudget()
        # A chunk never changes, so a repeated write of it has no effect.
        self.chunks: deque[LogChunk] = deque()
        # The lines after the last chunk, and their size in bytes.
        self.lines: list[LogLine] = []
        self.size = 0
        # The number of the last line in `chunks`.
        self.last = 0
        # True once the log accepts no more lines, and once the slot of the attempt is free.
        self.closed = self.released = False

    def append(self, key: AttemptKey, line: LogLine) -> None:
        self.lines.append(line)
        self.size += measure(line)
        if self.size >= CHUNK_BYTES:
            self.seal(key)

    def seal(self, key: AttemptKey) -> None:
        """Move the lines to a chunk."""
        if self.lines:
            self.last += len(self.lines)
            self.chunks.append(LogChunk(key, self.last, self.lines))
            self.lines, self.size = [], 0


class LogWriter:
    """Buffer the lines of running attempts and write them in groups.

    Args:
        database: the database.
        find_worker: returns the id under which the worker claimed an attempt in flight; None if
            the attempt is not in flight. Any thread may call it.
        limits: the limits of each attempt.
        on_written: called after each write.
        timing: the time that lines are gathered, and the pause between two tries.
    """

    def __init__(
        self,
        *,
        database: Database,
        find_worker: Callable[[AttemptKey], WorkerId | None],
        limits: LogLimits,
        on_written: Callable[[], None],
        timing: Timing,
    ) -> None:
        self._database = database
        self._find_worker = find_worker
        self.limits = limits
        self._on_written = on_written
        self._timing = timing
        self._attempts: dict[AttemptKey, _AttemptLog] = {}
        # The size of all unwritten lines, in bytes.
        self._pending = 0
        # Handlers in threads add lines too.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # The writer is a task of the worker, even if a handler's line starts it.
        self._context = contextvars.copy_context()
        self._pid = os.getpid()
        self._is_scheduled = False
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Accept lines, and write them in the running event loop."""
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()

    def add(self, key: AttemptKey, line: LogLine) -> None:
        """Add a line of an attempt, or drop it; never wait. Any thread may call this.

        A line that arrives after the end of its attempt is dropped.
        """
        # A forked process cannot write, and may have inherited a lock that is never released.
        if os.getpid() != self._pid:
            return
        with self._lock:
            log = self._open(key)
            if log is None:
                return
            if self._pending + measure(line) > _MAX_PENDING:
                log.budget.dropped += 1
            elif log.budget.admit(line, self.limits):
                self._pending += measure(line)
                log.append(key, line)
            self._schedule()

    def note_dropped(self, key: AttemptKey, lines: int) -> None:
        """Count lines of an attempt that were dropped elsewhere."""
        with self._lock:
            if (log := self._open(key)) is not None:
                log.budget.dropped += lines

    def take(self, keys: Iterable[AttemptKey]) -> list[LogChunk]:
        """Close the logs of ending attempts; return their unwritten chunks, to write with the ends.

        Call `confirm` after the commit. Without that call, the chunks are written later.
        """
        with self._lock:
            logs = [log for key in keys if (log := self._close(key)) is not None]
            return list(chain.from_iterable(log.chunks for log in logs))

    def confirm(self, chunks: Sequence[LogChunk]) -> None:
        """Forget chunks that are written, or that the database rejected."""
        if not chunks:
            return
        with self._lock:
            for chunk in chunks:
                log = self._attempts.get(chunk.key)
                if log is not None and chunk in log.chunks:
                    log.chunks.remove(chunk)
                    self._pending -= sum(map(measure, chunk.lines))
                    self._remove_empty(chunk.key, log)
        self._on_written()

    def release(self, key: AttemptKey) -> None:
        """Accept no more lines of an attempt, and write its remaining lines in the background.

        The slot of the attempt must be free, so that no late line starts a second log.
        """
        if key in self._attempts:
            with self._lock:
                if (log := self._close(key)) is not None:
                    log.released = True
                    self._remove_empty(key, log)
                    self._schedule()

    async def flush(self, key: AttemptKey) -> None:
        """Try once to write the lines of an attempt."""
        with self._lock:
            log = self._attempts.get(key)
            if log is None:
                return
            log.seal(key)
            chunks = list(log.chunks)
        try:
            await self._write(log.worker_id, chunks)
        except Unavailable:
            return

    async def close(self) -> None:
        """Write the remaining lines, in a short time: the process is about to exit."""
        with self._lock:
            self._schedule()
        # The task starts in the next iteration of the loop.
        await asyncio.sleep(0)
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=self._timing.task_end)
            self._writer.cancel()

    def _open(self, key: AttemptKey) -> _AttemptLog | None:
        """Return the log of an attempt in flight; None if it accepts no lines."""
        log = self._attempts.get(key)
        if log is None and self._loop is not None:
            worker_id = self._find_worker(key)
            if worker_id is not None:
                log = self._attempts[key] = _AttemptLog(worker_id)
        return None if log is None or log.closed else log

    def _close(self, key: AttemptKey) -> _AttemptLog | None:
        """Close the log of an attempt, with a last line that reports the dropped ones."""
        log = self._attempts.get(key)
        if log is not None and not log.closed:
            log.closed = True
            if log.budget.dropped:
                line = _report_dropped(log.budget.dropped, self.limits)
                self._pending += measure(line)
                log.append(key, line)
            log.seal(key)
        return log

    def _remove_empty(self, key: AttemptKey, log: _AttemptLog) -> None:
        if log.released and not log.chunks:
            del self._attempts[key]

    def _schedule(self) -> None:
        """Start the writer in the event loop, if lines are waiting and it is not running."""
        if self._pending and not self._is_scheduled and self._loop is not None:
            self._is_scheduled = True
            # The loop may be closed while a handler that was left behind still logs.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._start_writer, context=self._context)

    def _start_writer(self) -> None:
        self._writer = asyncio.create_task(self._run(), name="logs")

    async def _run(self) -> None:
        """Write until no line is left."""
        while True:
            await asyncio.sleep(self._timing.log_merge)
            groups = self._next_groups()
            if not groups:
                return
            try:
                for worker_id, chunks in groups.items():
                    await self._write(worker_id, chunks)
            except Unavailable:
                await asyncio.sleep(random.uniform(*self._timing.retry))

    def _next_groups(self) -> dict[WorkerId, list[LogChunk]]:
        """Return the next chunks, by worker id; mark the writer as ended if there are none."""
        groups: dict[WorkerId, list[LogChunk]] = {}
        size = 0
        with self._lock:
            for key, log in self._attempts.items():
                log.seal(key)
                for chunk in log.chunks:
                    if size >= _MAX_BATCH:
                        break
                    size += sum(map(measure, chunk.lines))
                    groups.setdefault(log.worker_id, []).append(chunk)
            if not groups:
                self._is_scheduled = False
        return groups

    async def _write(self, worker_id: WorkerId, chunks: Sequence[LogChunk]) -> None:
        """Write chunks of one worker id; drop them if the database rejects them.

        Raises:
            Unavailable: the database is unavailable; the chunks are kept.
        """
        if not chunks:
            return
        try:
            async with self._database.statement() as connection:
                await write_logs(connection, worker_id=worker_id, chunks=chunks)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 - a log must not end its worker
            _log.exception("job_logs_refused", attempts=len({chunk.key for chunk in chunks}))
        self.confirm(chunks)


def _report_dropped(dropped: int, limits: LogLimits) -> LogLine:
    lines = "1 line was" if dropped == 1 else f"{dropped} lines were"
    return LogLine(
        time=datetime.now(UTC),
        level=LogLevel.WARNING,
        logger=_LOGGER,
        message=f"{lines} dropped; the limits of an attempt are {limits.lines} lines "
        f"(HEADRACE_JOB_LOG_LINES) and {limits.size} bytes (HEADRACE_JOB_LOG_BYTES)",
        dropped=dropped,
    )
