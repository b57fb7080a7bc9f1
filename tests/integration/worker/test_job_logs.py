"""The lines that a worker process stores with its jobs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import pytest_asyncio

from headrace_core.domain.ids import JobId
from headrace_core.domain.job_log import LOG_START, LogLevel, LogLine, StoredLine
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.logs import list_logs
from headrace_worker.api.registry import Registry
from support.platform import Platform, platform
from support.processes import worker_process

TYPES = ("l.raises", "l.levels", "l.dies", "l.late", "l.threads", "l.forks", "l.large")


async def run(settings: Settings, folder: Path, *types: str) -> dict[str, list[StoredLine]]:
    """Run a job of each type on a worker process; return the log of each."""
    async with (
        platform(settings, Registry(), workers=0) as running,
        worker_process(running.settings, folder, handlers="support.logging_handlers"),
    ):
        ids = {job_type: await running.submit(job_type, "{}") for job_type in types}
        for job_id in ids.values():
            await running.until_ended(job_id)
        return {job_type: await read_log(running, job_id) for job_type, job_id in ids.items()}


async def read_log(running: Platform, job_id: JobId) -> list[StoredLine]:
    async with running.database.statement() as connection:
        page = await list_logs(connection, job_id=job_id, after=LOG_START, limit=10_000)
    assert page.complete
    return list(page.lines)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def logs(
    module_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[StoredLine]]:
    """The logs of a job of each type; the worker's own log has only errors."""
    settings = module_settings.model_copy(update={"log_level": "error", "job_log_bytes": 65_536})
    return await run(settings, tmp_path_factory.mktemp("worker"), *TYPES)


def messages(stored: list[StoredLine]) -> list[str]:
    return [line.message for _, line in stored]


def test_log_has_the_lines_of_each_attempt(logs: dict[str, list[StoredLine]]) -> None:
    (first, one), (second, two) = logs["l.raises"]
    assert (first, one.message) == ((1, 1), "attempt 1")
    assert (second, two.message) == ((2, 1), "attempt 2")
    assert (one.level, one.logger) == (LogLevel.ERROR, "shop.orders")
    trace = json.loads(one.fields)["stack_trace"]
    assert trace.endswith("KeyError: 'missing'")
    assert "support/logging_handlers.py" in trace


def test_job_log_level_is_independent_of_the_workers_log(
    logs: dict[str, list[StoredLine]],
) -> None:
    lines: list[LogLine] = [line for _, line in logs["l.levels"]]
    assert [(line.message, line.level) for line in lines] == [
        ("level 20", LogLevel.INFO),
        # A custom level.
        ("level 25", LogLevel.INFO),
        ("level 30", LogLevel.WARNING),
        ("level 40", LogLevel.ERROR),
        ("level 50", LogLevel.CRITICAL),
        ("bound", LogLevel.WARNING),
    ]
    assert lines[-1].logger == "support.logging_handlers"
    assert json.loads(lines[-1].fields) == {"order": 7, "ratio": None}


def test_lines_before_a_crash_are_stored(logs: dict[str, list[StoredLine]]) -> None:
    found = [(position.attempt, line.message) for position, line in logs["l.dies"]]
    assert found == [(1, "before the crash"), (2, "after the crash")]


def test_line_after_the_end_of_the_attempt_is_dropped(logs: dict[str, list[StoredLine]]) -> None:
    assert messages(logs["l.late"]) == ["in time"]


def test_threads_of_a_handler_log_without_loss(logs: dict[str, list[StoredLine]]) -> None:
    stored = logs["l.threads"]
    assert [position.line for position, _ in stored] == list(range(1, 201))
    assert Counter(messages(stored)) == Counter(
        f"{name} {number}" for name in range(4) for number in range(50)
    )
    for name in range(4):
        own = [text for text in messages(stored) if text.startswith(f"{name} ")]
        assert own == [f"{name} {number}" for number in range(50)]


def test_forked_process_stores_no_lines(logs: dict[str, list[StoredLine]]) -> None:
    assert messages(logs["l.forks"]) == ["in the parent, 1 threads"]


def test_log_ends_at_the_limit_in_bytes(logs: dict[str, list[StoredLine]]) -> None:
    *stored, (_, last) = logs["l.large"]
    sizes = [len(text.encode()) for text in messages(stored)]
    assert 60_000 < sum(sizes) <= 65_536
    assert last.dropped == 100 - len(stored)
    assert "65536 bytes (HEADRACE_JOB_LOG_BYTES)" in last.message


async def test_log_can_be_turned_off(settings: Settings, tmp_path: Path) -> None:
    off = settings.model_copy(update={"job_log_lines": 0, "store_stack_traces": False})
    found = await run(off, tmp_path, "l.levels", "l.large", "l.dies")
    assert found == {"l.levels": [], "l.large": [], "l.dies": []}


async def test_log_has_no_stack_trace_if_the_worker_stores_none(
    settings: Settings, tmp_path: Path
) -> None:
    without = settings.model_copy(update={"store_stack_traces": False})
    found = await run(without, tmp_path, "l.raises")
    assert [line.fields for _, line in found["l.raises"]] == ["", ""]
