"""Writing an end has one of four results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import pytest

from headrace_core.domain.attempt import AttemptEnd, AttemptKey
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.ids import JobId, WorkerId, uuid7
from headrace_core.domain.lifecycle import EventType
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_worker.attempt.execution import Execution
from headrace_worker.runners.job_log import LogLimits
from headrace_worker.timing import Timing
from headrace_worker.writes import completion
from headrace_worker.writes import ends as ends_module
from headrace_worker.writes.ends import EndWriter
from headrace_worker.writes.logs import LogWriter
from headrace_worker.writes.results import Ended, EndResult, Lost, Refused, SelfCompleted, Written

MIB = 2**20
DEADLINE_S = 30


class UnreachableDatabase:
    """A database without a server."""

    def statement(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


def make_execution(*, completes: bool = False) -> Execution:
    key = AttemptKey(JobId(uuid7()), 1)
    job = SimpleNamespace(key=key, type="t")
    return cast(
        "Execution",
        SimpleNamespace(key=key, job=job, worker_id=WorkerId(uuid7()), completes=completes),
    )


def succeeded(key: AttemptKey, result: str = "1") -> AttemptEnd:
    return AttemptEnd(key=key, event=EventType.SUCCEEDED, result=result)


class RecordingWriter:
    """An EndWriter that records the results of its writes, one list per write."""

    def __init__(self, *, held: bool = True) -> None:
        self.groups: list[list[EndResult]] = []
        database = cast("Database", UnreachableDatabase())
        self.writer = EndWriter(
            database=database,
            is_held=lambda _: held,
            logs=LogWriter(
                database=database,
                find_worker=lambda _: None,
                limits=LogLimits.of(Settings()),
                on_written=lambda: None,
                timing=Timing(),
            ),
            store_stack_traces=True,
            record=self._record,
            timing=Timing(retry=(0.0, 0.0), open_row=(0.0, 0.0)),
        )

    def _record(self, ended: Sequence[Ended]) -> None:
        self.groups.append([result for _, _, result in ended])

    async def write(self, execution: Execution) -> EndResult:
        self.writer.write(execution, succeeded(execution.key))
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.close()
        [[result]] = self.groups
        return result


def set_results(monkeypatch: pytest.MonkeyPatch, *results: Any) -> None:
    """Make each write of ends return or raise the next result."""
    pending = list(results)

    async def end_attempts(_: None, *, ends: Sequence[AttemptEnd], **__: Any) -> dict[Any, Any]:
        found = pending.pop(0)
        if isinstance(found, Exception):
            raise found
        return {end.key: found for end in ends if found is not None}

    monkeypatch.setattr(ends_module, "end_attempts", end_attempts)


async def test_stored_end_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    set_results(monkeypatch, EventType.CANCELLED)
    assert await RecordingWriter().write(make_execution()) == Written(EventType.CANCELLED)


async def test_end_of_a_recovered_attempt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_results(monkeypatch, None)
    assert await RecordingWriter().write(make_execution()) == Refused()


async def test_end_without_database_and_lease_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    set_results(monkeypatch, Unavailable("postgresql"))
    assert await RecordingWriter(held=False).write(make_execution()) == Lost()


async def test_unstorable_end_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    set_results(monkeypatch, *[asyncpg.DataError()] * 3)
    assert await RecordingWriter().write(make_execution()) == Lost()


async def test_rejected_content_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    set_results(monkeypatch, asyncpg.DataError(), asyncpg.DataError(), EventType.FAILED)
    assert await RecordingWriter().write(make_execution()) == Written(EventType.FAILED)


async def test_attempt_without_lease_is_lost() -> None:
    writer = RecordingWriter()
    writer.writer.write(make_execution(), None)
    assert writer.groups == [[Lost()]]


@pytest.mark.parametrize(
    ("completed", "expected"),
    [
        ([True], SelfCompleted()),
        # The handler committed between the query and the write.
        ([False, True], SelfCompleted()),
        ([False, False], Refused()),
    ],
)
async def test_completed_attempt_is_self_completed(
    monkeypatch: pytest.MonkeyPatch, completed: list[bool], expected: EndResult
) -> None:
    async def was_completed(_: None, __: AttemptKey) -> bool:
        return completed.pop(0)

    async def is_held_open(_: None, __: AttemptKey) -> bool:
        return False

    monkeypatch.setattr(completion, "was_completed", was_completed)
    monkeypatch.setattr(completion, "is_held_open", is_held_open)
    set_results(monkeypatch, None)
    assert await RecordingWriter().write(make_execution(completes=True)) == expected
    assert completed == []


async def test_large_results_are_written_in_small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    set_results(monkeypatch, *[EventType.SUCCEEDED] * 3)
    writer = RecordingWriter()
    large = '"' + "x" * MIB + '"'
    for result in [large] * 10 + ["1"] * 20:
        execution = make_execution()
        execution.worker_id = WORKER
        writer.writer.write(execution, succeeded(execution.key, result))
    async with asyncio.timeout(DEADLINE_S):
        await writer.writer.close()
    # A group includes the result that fills it.
    assert [len(group) for group in writer.groups] == [4, 4, 22]


WORKER = WorkerId(uuid7())
