"""Reports are written in groups of bounded size."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import cast

import pytest

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_worker.metrics import Counts
from headrace_worker.timing import Timing
from headrace_worker.writes import reports as reports_module
from headrace_worker.writes.reports import ReportWriter

MIB = 2**20
DEADLINE_S = 30


async def test_large_reports_are_written_in_small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []

    class UnreachableDatabase:
        def statement(self) -> AbstractAsyncContextManager[None]:
            return nullcontext()

    async def write(
        _: Connection, *, worker_id: WorkerId, reports: list[AttemptReport]
    ) -> set[AttemptKey]:
        groups.append(len(reports))
        return {report.key for report in reports}

    monkeypatch.setattr(reports_module, "write_reports", write)
    writer = ReportWriter(
        database=cast("Database", UnreachableDatabase()),
        is_held=lambda _: True,
        on_written=lambda: None,
        max_pending=1000,
        counts=Counts(),
        timing=Timing(),
    )
    worker_id = WorkerId(uuid7())
    outputs = ['"' + "x" * MIB + '"'] * 10 + ["1"] * 20
    async with asyncio.timeout(DEADLINE_S):
        written = await asyncio.gather(
            *(
                writer.write(
                    worker_id, AttemptReport(key=AttemptKey(JobId(uuid7()), 1), output=output)
                )
                for output in outputs
            )
        )
        await writer.close()
    assert all(written)
    assert sum(groups) == 30
    assert max(groups[:3]) <= 4
