"""What attempts report and return is written in groups that are bounded in bytes."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, cast

import pytest

from headrace_core.domain.attempt import AttemptEnd, AttemptKey, AttemptReport
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.domain.lifecycle import EventType
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_worker.metrics import Counts
from headrace_worker.writes import reports as reports_module
from headrace_worker.writes.ends import Finishes
from headrace_worker.writes.reports import Reports

MIB = 2**20
LONGEST_S = 30


async def test_large_results_are_written_in_small_groups() -> None:
    groups: list[int] = []
    finishes = Finishes(
        database=cast("Database", None),
        held=lambda _: True,
        on_written=lambda _: None,
        store_stack_traces=True,
    )

    async def write(group: Any) -> None:
        groups.append(len(group))

    finishes._write_group = write  # type: ignore[method-assign]
    large = '"' + "x" * MIB + '"'
    for result in [large] * 10 + ["1"] * 20:
        finish = AttemptEnd(
            key=AttemptKey(JobId(uuid7()), 1), event=EventType.SUCCEEDED, result=result
        )
        finishes.add(cast("Any", None), finish)
    async with asyncio.timeout(LONGEST_S):
        await finishes.close()
    # The result that fills a group is still in it.
    assert groups == [4, 4, 22]


async def test_large_reports_are_written_in_small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []

    class Nowhere:
        def statement(self) -> AbstractAsyncContextManager[None]:
            return nullcontext()

    async def write(
        conn: Connection, *, worker_id: WorkerId, reports: list[AttemptReport]
    ) -> set[AttemptKey]:
        groups.append(len(reports))
        return {report.key for report in reports}

    monkeypatch.setattr(reports_module, "write_reports", write)
    reports = Reports(
        database=cast("Database", Nowhere()),
        held=lambda _: True,
        on_written=lambda: None,
        max_pending=1000,
        counts=Counts(),
    )
    worker_id = WorkerId(uuid7())
    outputs = ['"' + "x" * MIB + '"'] * 10 + ["1"] * 20
    async with asyncio.timeout(LONGEST_S):
        taken = await asyncio.gather(
            *(
                reports.write(
                    worker_id, AttemptReport(key=AttemptKey(JobId(uuid7()), 1), output=output)
                )
                for output in outputs
            )
        )
        await reports.close()
    assert all(taken)
    assert sum(groups) == 30
    assert max(groups[:3]) <= 4
