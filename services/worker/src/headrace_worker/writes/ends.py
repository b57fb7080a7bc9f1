"""How attempts end is written in groups: what ends while a group is written makes the next one."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import structlog

from headrace_core.domain.attempt import AttemptEnd, AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.jobs.complete import is_held_open, was_completed
from headrace_core.store.jobs.end import end_attempts, written_ends
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_worker.api.errors import NotCommitted
from headrace_worker.attempt.execution import Execution
from headrace_worker.attempt.failure import error_facts
from headrace_worker.attempt.judge import unwritable

_log = structlog.get_logger()

# The most that one statement writes, in attempts and in bytes of their results.
_MAX_BATCH = 500
_MAX_BATCH_BYTES = 4 * 1024 * 1024
# Seconds between two attempts while PostgreSQL is gone.
_RETRY = (0.1, 0.5)
# Seconds between two looks whether a handler's transaction is still open: they grow from the first
# to the last.
_OPEN = (0.1, 2.0)


class Ended(NamedTuple):
    """An attempt that has ended, and how."""

    execution: Execution
    finish: AttemptEnd


class Question(Protocol):
    """What the database is asked about an attempt; it waits for nobody."""

    async def __call__(self, conn: Connection, key: AttemptKey, /) -> bool: ...


class Finishes:
    """Writes finishes, again and again while the lease is held and the database is gone.

    Args:
        database: where they go.
        held: whether the lease under an id is still held.
        store_stack_traces: whether errors are written with their stack traces.
        on_written: told of each what was to be written, and the event that was; None when the
            attempt is no longer this worker's.
    """

    def __init__(
        self,
        *,
        database: Database,
        held: Callable[[WorkerId], bool],
        store_stack_traces: bool,
        on_written: Callable[
            [Sequence[tuple[Execution, AttemptEnd | None, EventType | None]]], None
        ],
    ) -> None:
        self._database = database
        self._held = held
        self._store_stack_traces = store_stack_traces
        self._on_written = on_written
        self._waiting: deque[Ended] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[None]] = set()

    def add(self, execution: Execution, finish: AttemptEnd) -> None:
        """Has a finish written. There are never more than the worker has slots."""
        self._waiting.append(Ended(execution, finish))
        if self._writer is None:
            # A task begins at the loop's next turn: what this turn still ends joins in.
            self._writer = asyncio.create_task(self._run(), name="finishes")

    def settle(self, execution: Execution, finish: AttemptEnd) -> None:
        """Has a finish written unless the handler has finished its job itself.

        It goes alone: where the handler's transaction is still open, as that of one that was left
        behind, it waits for its end.
        """
        settling = asyncio.create_task(self._settle(Ended(execution, finish)), name="settling")
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)

    async def close(self) -> None:
        """Waits until all are written, or the lease is lost."""
        while tasks := self._settling | ({self._writer} if self._writer else set()):
            await asyncio.wait(tasks)

    async def _settle(self, ended: Ended) -> None:
        execution, finish = ended
        job = execution.job
        event: EventType | None = None
        completed = await self._ask(was_completed, ended)
        if not completed:
            if await self._until_free(ended):
                event = (await self._write_alone(ended)).get(job.key)
            # The commit may have come only now.
            completed = event is None and await self._ask(was_completed, ended)
        if not completed:
            self._on_written([(execution, finish, event)])
            return
        if finish.error is not None and finish.error.type != NotCommitted.__name__:
            _log.warning(
                "handler_failed_after_completion",
                job_id=str(job.key.job_id),
                attempt=job.key.attempt,
                type=job.type,
                **error_facts(finish.error),
            )
        self._on_written([(execution, None, EventType.SUCCEEDED)])

    async def _until_free(self, ended: Ended) -> bool:
        """Waits until no open transaction has the job's row; False when the lease is lost before.

        It looks now and then: as many writes that wait for rows as there are connections would
        leave none for the lease.
        """
        worker_id = ended.execution.worker_id
        pause, longest = _OPEN
        while self._held(worker_id) and await self._ask(is_held_open, ended):
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, longest)
        return self._held(worker_id)

    async def _ask(self, question: Question, ended: Ended) -> bool:
        """What the database says of an attempt; False as well when it refuses to, or the lease is
        lost before it does.
        """
        job = ended.execution.job
        while True:
            try:
                async with self._database.statement() as connection:
                    return await question(connection, job.key)
            except Unavailable:
                if not self._held(ended.execution.worker_id):
                    return False
                await asyncio.sleep(random.uniform(*_RETRY))
            except Exception:  # noqa: BLE001 - the attempt ends all the same: its end is guarded
                _log.exception(
                    "completion_unknown", job_id=str(job.key.job_id), attempt=job.key.attempt
                )
                return False

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._write_group(self._next_group())
        finally:
            self._writer = None

    def _next_group(self) -> Sequence[Ended]:
        group: list[Ended] = []
        size = 0
        while self._waiting and len(group) < _MAX_BATCH and size < _MAX_BATCH_BYTES:
            group.append(self._waiting.popleft())
            size += len(group[-1].finish.result or "")
        return group

    async def _write_group(self, group: Sequence[Ended]) -> None:
        try:
            events = await self._write(group)
        except Exception:  # noqa: BLE001 - one that is refused spoils all that is written with it
            events = {}
            for ended in group:
                events |= await self._write_alone(ended)
        self._on_written(
            [(execution, finish, events.get(finish.key)) for execution, finish in group]
        )

    async def _write_alone(self, ended: Ended) -> dict[AttemptKey, EventType]:
        job = ended.execution.job
        try:
            return await self._write([ended])
        except Exception:  # noqa: BLE001 - the job must not stay RUNNING for ever
            _log.exception("finish_refused", job_id=str(job.key.job_id), attempt=job.key.attempt)
        try:
            return await self._write([Ended(ended.execution, unwritable(job))])
        except Exception:  # noqa: BLE001 - the worker hands it back as a stray
            _log.exception("attempt_lost", job_id=str(job.key.job_id), attempt=job.key.attempt)
            return {}

    async def _write(self, group: Sequence[Ended]) -> dict[AttemptKey, EventType]:
        """Writes a group; those that are missing are no longer this worker's.

        Raises:
            asyncpg.PostgresError: the database refuses what one of them says.
        """
        again = False
        while True:
            try:
                return await self._commit(group, again=again)
            except Unavailable:
                again = True
                group = [ended for ended in group if self._held(ended.execution.worker_id)]
                if not group:
                    return {}
                await asyncio.sleep(random.uniform(*_RETRY))

    async def _commit(self, group: Sequence[Ended], *, again: bool) -> dict[AttemptKey, EventType]:
        by_worker: dict[WorkerId, list[AttemptEnd]] = {}
        for ended in group:
            by_worker.setdefault(ended.execution.worker_id, []).append(ended.finish)
        written: dict[AttemptKey, EventType] = {}
        # One id, but for a moment after a rejoin.
        for worker_id, ends in by_worker.items():
            async with self._database.statement() as connection:
                written |= await end_attempts(
                    connection,
                    worker_id=worker_id,
                    ends=ends,
                    with_stack_traces=self._store_stack_traces,
                )
        missing = [finish for _, finish in group if finish.key not in written]
        if again and missing:
            # What was committed before the answer got lost was not refused.
            async with self._database.statement() as connection:
                written |= await written_ends(connection, ends=missing)
        return written
