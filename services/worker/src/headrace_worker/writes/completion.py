"""The ends of attempts whose handlers called `complete_in`.

The database knows whether the handler's transaction was committed. The judged end counts only if it
was not committed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from headrace_core.domain.attempt import AttemptEnd, AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import WorkerId
from headrace_core.store.jobs.complete import is_held_open, was_completed
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_worker.api.errors import NotCommitted
from headrace_worker.api.failure import error_fields
from headrace_worker.attempt.execution import Execution
from headrace_worker.timing import Timing
from headrace_worker.writes.results import LOST, SELF_COMPLETED, Ended, EndResult, Written

_log = structlog.get_logger()


class _Query(Protocol):
    """A query about an attempt, which does not wait for locks."""

    async def __call__(self, conn: Connection, key: AttemptKey, /) -> bool: ...


class CompletionCheck:
    """Write the judged end of an attempt unless its handler has ended the job itself.

    Args:
        database: the database.
        is_held: returns whether the lease under an id is still held.
        write: writes one end.
        record: called with each result.
        timing: the pauses between two queries.
    """

    def __init__(
        self,
        *,
        database: Database,
        is_held: Callable[[WorkerId], bool],
        write: Callable[[Execution, AttemptEnd], Awaitable[EndResult]],
        record: Callable[[Sequence[Ended]], None],
        timing: Timing,
    ) -> None:
        self._database = database
        self._is_held = is_held
        self._write = write
        self._record = record
        self._timing = timing
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, execution: Execution, end: AttemptEnd) -> None:
        """Check one attempt and write its end in a background task.

        The wait can be long: a handler that was left behind can keep its transaction open.
        """
        task = asyncio.create_task(self._run(execution, end), name="completion")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, execution: Execution, end: AttemptEnd) -> None:
        result = await self._write_end(execution, end)
        error = end.error if result is SELF_COMPLETED else None
        if error is not None and error.type != NotCommitted.__name__:
            _log.warning(
                "handler_failed_after_completion",
                job_id=str(execution.key.job_id),
                attempt=execution.key.attempt,
                type=execution.job.type,
                **error_fields(error),
            )
        self._record([(execution, end, result)])

    async def _write_end(self, execution: Execution, end: AttemptEnd) -> EndResult:
        if await self._query(was_completed, execution):
            return SELF_COMPLETED
        await self._wait_until_unlocked(execution)
        result: EndResult = LOST
        if self._is_held(execution.worker_id):
            result = await self._write(execution, end)
        if not isinstance(result, Written) and await self._query(was_completed, execution):
            # The handler committed between the query and the write.
            return SELF_COMPLETED
        return result

    async def _wait_until_unlocked(self, execution: Execution) -> None:
        """Wait until no open transaction locks the job's row, or the lease is lost.

        Poll, because writes that wait for locks would occupy connections that the lease needs.
        """
        pause, longest = self._timing.open_row
        while self._is_held(execution.worker_id) and await self._query(is_held_open, execution):
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, longest)

    async def _query(self, query: _Query, execution: Execution) -> bool:
        """Query the database about an attempt; return False if the query fails.

        Retry until the database rejects the query or the lease is lost.
        """
        job_id, attempt = execution.key
        while True:
            try:
                async with self._database.statement() as connection:
                    return await query(connection, execution.key)
            except Unavailable:
                if not self._is_held(execution.worker_id):
                    return False
                await asyncio.sleep(random.uniform(*self._timing.retry))
            except Exception:  # noqa: BLE001 - the end write is guarded, so it may proceed
                _log.exception("completion_unknown", job_id=str(job_id), attempt=attempt)
                return False
