"""Write the ends of attempts in groups. Attempts that end during a write form the next group."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from headrace_core.domain.attempt import AttemptEnd, AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.jobs.end import end_attempts, written_ends
from headrace_core.store.sql.database import Database
from headrace_worker.attempt.execution import Execution
from headrace_worker.attempt.judge import unwritable
from headrace_worker.timing import Timing
from headrace_worker.writes.completion import CompletionCheck
from headrace_worker.writes.logs import LogWriter
from headrace_worker.writes.results import LOST, REFUSED, WRITTEN, Ended, EndResult

_log = structlog.get_logger()

# Maximum number of attempts, and maximum bytes of results, in one statement.
_MAX_BATCH: Final = 500
_MAX_BATCH_BYTES: Final = 4 * 1024 * 1024

_Events = Mapping[AttemptKey, EventType]


class _Pending(NamedTuple):
    execution: Execution
    end: AttemptEnd


class EndWriter:
    """Write the ends of attempts, and retry during a database outage while the lease is held.

    Args:
        database: the database.
        is_held: returns whether the lease under an id is still held.
        logs: contains the last log lines of the attempts.
        store_stack_traces: True if errors are written with their stack traces.
        record: called with the results of each write.
        timing: the pauses between retries.
    """

    def __init__(
        self,
        *,
        database: Database,
        is_held: Callable[[WorkerId], bool],
        logs: LogWriter,
        store_stack_traces: bool,
        record: Callable[[Sequence[Ended]], None],
        timing: Timing,
    ) -> None:
        self._database = database
        self._is_held = is_held
        self._logs = logs
        self._store_stack_traces = store_stack_traces
        self._record = record
        self._timing = timing
        self._pending: deque[_Pending] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._completions = CompletionCheck(
            database=database,
            is_held=is_held,
            write=self._write_alone,
            record=record,
            timing=timing,
        )

    def write(self, execution: Execution, end: AttemptEnd | None) -> None:
        """Queue the end of an attempt for the next write; the end is None if the lease is lost.

        At most one end per slot is pending.
        """
        if end is None:
            self._record([(execution, None, LOST)])
        elif execution.completes:
            self._completions.start(execution, end)
        else:
            self._pending.append(_Pending(execution, end))
            if self._writer is None:
                # The task starts in the next iteration of the loop. All ends until then form one
                # group.
                self._writer = asyncio.create_task(self._run(), name="ends")

    async def close(self) -> None:
        """Wait until all ends are written, or the lease is lost."""
        while tasks := self._completions.tasks | ({self._writer} if self._writer else set()):
            await asyncio.wait(tasks)

    async def _run(self) -> None:
        try:
            while self._pending:
                await self._write_group(self._next_group())
        finally:
            self._writer = None

    def _next_group(self) -> Sequence[_Pending]:
        group: list[_Pending] = []
        size = 0
        while self._pending and len(group) < _MAX_BATCH and size < _MAX_BATCH_BYTES:
            group.append(self._pending.popleft())
            size += len(group[-1].end.result or "")
        return group

    async def _write_group(self, group: Sequence[_Pending]) -> None:
        try:
            events = await self._write(group, with_logs=True)
        except Exception:  # noqa: BLE001 - one rejected end fails the statement of its group
            self._record([(*pending, await self._write_alone(*pending)) for pending in group])
            return
        self._record(
            [
                (execution, end, self._result(execution, events.get(end.key)))
                for execution, end in group
            ]
        )

    async def _write_alone(self, execution: Execution, end: AttemptEnd) -> EndResult:
        job_id, attempt = execution.key
        try:
            return await self._write_one(execution, end)
        except Exception:  # noqa: BLE001 - without an end the job stays RUNNING
            _log.exception("end_refused", job_id=str(job_id), attempt=attempt)
        try:
            return await self._write_one(execution, unwritable(execution.job))
        except Exception:  # noqa: BLE001 - the search for strays hands the attempt back
            _log.exception("attempt_lost", job_id=str(job_id), attempt=attempt)
            return LOST

    async def _write_one(self, execution: Execution, end: AttemptEnd) -> EndResult:
        events = await self._write([_Pending(execution, end)])
        return self._result(execution, events.get(end.key))

    def _result(self, execution: Execution, event: EventType | None) -> EndResult:
        if event is not None:
            return WRITTEN[event]
        return REFUSED if self._is_held(execution.worker_id) else LOST

    async def _write(self, group: Sequence[_Pending], *, with_logs: bool = False) -> _Events:
        """Write a group; return the written event of each attempt that the worker still has.

        Args:
            group: the ends.
            with_logs: whether to write the last log lines of these attempts in the same statement.
                A rejected line must not end its job with an error, so a lone end has no lines.

        Raises:
            asyncpg.PostgresError: the database rejects the content of an end.
        """
        is_retry = False
        while True:
            try:
                return await self._commit(group, is_retry=is_retry, with_logs=with_logs)
            except Unavailable:
                is_retry = True
                group = [pending for pending in group if self._is_held(pending.execution.worker_id)]
                if not group:
                    return {}
                await asyncio.sleep(random.uniform(*self._timing.retry))

    async def _commit(
        self, group: Sequence[_Pending], *, is_retry: bool, with_logs: bool
    ) -> _Events:
        by_worker: dict[WorkerId, list[AttemptEnd]] = {}
        for execution, end in group:
            by_worker.setdefault(execution.worker_id, []).append(end)
        written: dict[AttemptKey, EventType] = {}
        # All attempts have one worker id, except right after a new registration.
        for worker_id, ends in by_worker.items():
            logs = self._logs.take(end.key for end in ends) if with_logs else []
            async with self._database.statement() as connection:
                written |= await end_attempts(
                    connection,
                    worker_id=worker_id,
                    ends=ends,
                    with_stack_traces=self._store_stack_traces,
                    logs=logs,
                )
            self._logs.confirm(logs)
        missing = [end for _, end in group if end.key not in written] if is_retry else []
        if missing:
            # An earlier try may have written these ends, and only its response was lost.
            async with self._database.statement() as connection:
                written |= await written_ends(connection, ends=missing)
        return written
