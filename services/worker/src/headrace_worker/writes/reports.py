"""What running attempts say is written in groups, as their ends are in `finishing`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence, Sized
from contextlib import AbstractAsyncContextManager

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.errors import ShuttingDown, Unavailable
from headrace_core.domain.ids import WorkerId
from headrace_core.store.jobs.report import count_reports, write_reports
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.group_commit import GroupCommit, Overloaded
from headrace_worker.metrics import Counts

# The most that one statement writes, in reports and in bytes, and the most bytes that wait.
_MAX_BATCH = 1000
_MAX_BATCH_BYTES = 4 * 1024 * 1024
_MAX_PENDING_BYTES = 64 * 1024 * 1024
# Seconds between two attempts while PostgreSQL is gone.
_RETRY = (0.1, 0.5)


class Reports:
    """Writes reports, again and again while the lease is held and the database is gone.

    Args:
        database: where they go.
        held: whether the lease under an id is still held.
        on_written: called behind each commit.
        max_pending: how many may wait.
        counts: has how many were refused.
    """

    def __init__(
        self,
        *,
        database: Database,
        held: Callable[[WorkerId], bool],
        on_written: Callable[[], None],
        max_pending: int,
        counts: Counts,
    ) -> None:
        self._database = database
        self._held = held
        self._on_written = on_written
        self._counts = counts
        self._group: GroupCommit[tuple[WorkerId, AttemptReport], bool] = GroupCommit(
            commit=self._commit,
            max_batch=_MAX_BATCH,
            max_pending=max_pending,
            weigh=_weigh,
            max_batch_weight=_MAX_BATCH_BYTES,
            max_pending_weight=_MAX_PENDING_BYTES,
        )

    async def write(self, worker_id: WorkerId, report: AttemptReport) -> bool:
        """Writes a report; False when the attempt is no longer this worker's.

        Raises:
            asyncpg.PostgresError: the database refuses what it says.
        """

        async def alone(item: tuple[WorkerId, AttemptReport]) -> bool:
            [taken] = await self._commit([item])
            return taken

        try:
            return await self._persist(self._group.submit, worker_id, report)
        except Exception:  # noqa: BLE001 - one that is refused spoils all that is written with it
            return await self._persist(alone, worker_id, report)

    async def close(self) -> None:
        """Writes what waits."""
        await self._group.close()

    async def _persist(
        self,
        submit: Callable[[tuple[WorkerId, AttemptReport]], Awaitable[bool]],
        worker_id: WorkerId,
        report: AttemptReport,
    ) -> bool:
        unsure = False
        while True:
            try:
                # What was written before the answer got lost must not be in the history twice.
                if unsure and await self._is_written(report):
                    return True
                return await submit((worker_id, report))
            except ShuttingDown:
                return False
            except Unavailable as fault:
                if not self._held(worker_id):
                    self._counts.reports_refused += 1
                    return False
                unsure = unsure or not isinstance(fault, Overloaded)
                await asyncio.sleep(random.uniform(*_RETRY))

    async def _is_written(self, report: AttemptReport) -> bool:
        if report.number is None:
            return False
        async with self._database.transaction() as connection:
            written = await count_reports(connection, report.key)
        return written >= report.number

    async def _commit(self, items: list[tuple[WorkerId, AttemptReport]]) -> list[bool]:
        taken: set[AttemptKey] = set()
        async with self._transaction(grouped := _by_worker(items)) as connection:
            for worker_id, reports in grouped.items():
                taken |= await write_reports(connection, worker_id=worker_id, reports=reports)
        self._on_written()
        written = [report.key in taken for _, report in items]
        self._counts.reports_refused += written.count(False)
        return written

    def _transaction(self, groups: Sized) -> AbstractAsyncContextManager[Connection]:
        """All groups or none; the only group is a statement, which is that by itself."""
        return self._database.statement() if len(groups) == 1 else self._database.transaction()


def _weigh(item: tuple[WorkerId, AttemptReport]) -> int:
    report = item[1]
    if report.output is not None:
        return len(report.output)
    return 0 if report.progress is None else len(report.progress.counters)


def _by_worker(
    items: Sequence[tuple[WorkerId, AttemptReport]],
) -> dict[WorkerId, list[AttemptReport]]:
    """Items by the id under which their job was claimed: one, but for a moment after a rejoin."""
    grouped: dict[WorkerId, list[AttemptReport]] = {}
    for worker_id, item in items:
        grouped.setdefault(worker_id, []).append(item)
    return grouped
