"""Grouped writes of the reports of running attempts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence, Sized
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeAlias

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.errors import ShuttingDown, Unavailable
from headrace_core.domain.ids import WorkerId
from headrace_core.store.jobs.report import count_reports, write_reports
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.group_commit import GroupCommit, Overloaded
from headrace_worker.metrics import Counts
from headrace_worker.timing import Timing

# Maximum numbers of reports and bytes in one statement, and maximum number of pending bytes.
_MAX_BATCH: Final = 1000
_MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
_MAX_PENDING_BYTES: Final = 64 * 1024 * 1024

# A report, and the id under which the worker claimed its attempt.
_Item: TypeAlias = tuple[WorkerId, AttemptReport]


class ReportWriter:
    """Write reports, and retry while the database is unavailable and the lease is held.

    Args:
        database: the database.
        is_held: returns whether the lease under an id is still held.
        on_written: called after each commit.
        max_pending: the maximum number of pending reports.
        counts: counts the refused reports.
        timing: the pause between two tries.
    """

    def __init__(
        self,
        *,
        database: Database,
        is_held: Callable[[WorkerId], bool],
        on_written: Callable[[], None],
        max_pending: int,
        counts: Counts,
        timing: Timing,
    ) -> None:
        self._database = database
        self._is_held = is_held
        self._on_written = on_written
        self._counts = counts
        self._timing = timing
        self._group: GroupCommit[_Item, bool] = GroupCommit(
            commit=self._commit,
            max_batch=_MAX_BATCH,
            max_pending=max_pending,
            weigh=_weigh,
            max_batch_weight=_MAX_BATCH_BYTES,
            max_pending_weight=_MAX_PENDING_BYTES,
        )

    async def write(self, worker_id: WorkerId, report: AttemptReport) -> bool:
        """Write a report; return False if another worker may have the attempt.

        Raises:
            asyncpg.PostgresError: the database rejects the content of the report.
        """

        async def submit_alone(item: _Item) -> bool:
            [written] = await self._commit([item])
            return written

        try:
            return await self._persist(self._group.submit, worker_id, report)
        except Exception:  # noqa: BLE001 - one rejected report fails the statement of its group
            return await self._persist(submit_alone, worker_id, report)

    async def close(self) -> None:
        """Write the pending reports."""
        await self._group.close()

    async def _persist(
        self,
        submit: Callable[[_Item], Awaitable[bool]],
        worker_id: WorkerId,
        report: AttemptReport,
    ) -> bool:
        unsure = False
        while True:
            try:
                # Do not write a report twice if only the response to its first write was lost.
                if unsure and await self._is_written(report):
                    return True
                return await submit((worker_id, report))
            except ShuttingDown:
                return False
            except Unavailable as fault:
                if not self._is_held(worker_id):
                    self._counts.reports_refused += 1
                    return False
                unsure = unsure or not isinstance(fault, Overloaded)
                await asyncio.sleep(random.uniform(*self._timing.retry))

    async def _is_written(self, report: AttemptReport) -> bool:
        if report.number is None:
            return False
        async with self._database.transaction() as connection:
            written = await count_reports(connection, report.key)
        return written >= report.number

    async def _commit(self, items: list[_Item]) -> list[bool]:
        accepted: set[AttemptKey] = set()
        async with self._transaction(grouped := _by_worker(items)) as connection:
            for worker_id, reports in grouped.items():
                accepted |= await write_reports(connection, worker_id=worker_id, reports=reports)
        self._on_written()
        written = [report.key in accepted for _, report in items]
        self._counts.reports_refused += written.count(False)
        return written

    def _transaction(self, groups: Sized) -> AbstractAsyncContextManager[Connection]:
        """Return a transaction for several groups; for one group, a single statement suffices."""
        return self._database.statement() if len(groups) == 1 else self._database.transaction()


def _weigh(item: _Item) -> int:
    report = item[1]
    if report.output is not None:
        return len(report.output)
    return 0 if report.progress is None else len(report.progress.counters)


def _by_worker(items: Sequence[_Item]) -> dict[WorkerId, list[AttemptReport]]:
    """Group reports by worker id. All have one id, except right after a new registration."""
    grouped: dict[WorkerId, list[AttemptReport]] = {}
    for worker_id, report in items:
        grouped.setdefault(worker_id, []).append(report)
    return grouped
