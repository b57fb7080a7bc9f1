"""The error of a failed job and the worker's log, for each of the three handler modes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from headrace_core.domain.ids import JobId
from headrace_core.domain.job import Job, JobEvent
from headrace_core.domain.job_log import LOG_START, LogLevel, LogPosition, StoredLine
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.logs import list_logs
from headrace_core.store.sql.connection import Connection
from headrace_worker.api.registry import Registry
from support.platform import platform
from support.processes import worker_process

MODES = ("loop", "thread", "process")
CARD = "4111-1111"


SUBMITS: list[tuple[str, dict[str, Any]]] = [
    *((f"d.{name}.{mode}", {"card": CARD}) for name in ("charge", "raise_group") for mode in MODES),
    *(
        (f"d.raise_hostile_error.{mode}", {"fail": fail})
        for mode in MODES
        for fail in (True, False)
    ),
    *((f"d.log_lines.{mode}", {}) for mode in MODES),
    *((name, {}) for name in ("d.wait.loop", "d.wait.thread", "d.cancelled.loop")),
]


@dataclass(frozen=True)
class FinishedRun:
    """Ended jobs, their events and their worker's log."""

    jobs: list[Job]
    events: dict[JobId, list[JobEvent]]
    log: str
    job_logs: dict[JobId, list[StoredLine]]

    def jobs_of(self, *types: str) -> list[Job]:
        """Return the jobs whose type starts with one of `types`."""
        return [job for job in self.jobs if job.type.startswith(types)]

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """The parsed log lines."""
        return [json.loads(line) for line in self.log.splitlines()]


async def run(
    settings: Settings, folder: Path, *submits: tuple[str, dict[str, Any]]
) -> FinishedRun:
    """Run jobs on a worker in a separate process."""
    async with (
        platform(settings, Registry(), workers=0) as running,
        worker_process(running.settings, folder, handlers="support.debugged_handlers") as worker,
    ):
        ids = [
            await running.submit(job_type, json.dumps(payload), correlation_id=f"trace {job_type}")
            for job_type, payload in submits
        ]
        jobs = [await running.until_ended(job_id) for job_id in ids]
        events = {job_id: await running.events(job_id) for job_id in ids}
        await asyncio.to_thread(worker.stop)
        log = worker.log.read_text()
        async with running.database.statement() as connection:
            job_logs = {job_id: await read_logs(connection, job_id, step=7) for job_id in ids}
    return FinishedRun(jobs, events, log, job_logs)


async def read_logs(connection: Connection, job_id: JobId, *, step: int) -> list[StoredLine]:
    """Return the whole log of a job, which is read in pages of `step` lines."""
    lines: list[StoredLine] = []
    after, complete = LOG_START, False
    while not complete:
        page = await list_logs(connection, job_id=job_id, after=after, limit=step)
        assert len(page.lines) <= step
        lines += page.lines
        after = lines[-1].position if lines else LOG_START
        complete = page.complete
    return lines


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def finished_run(
    module_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> FinishedRun:
    """One run of all jobs of this module on one worker."""
    return await run(module_settings, tmp_path_factory.mktemp("worker"), *SUBMITS)


def test_failed_job_error_has_the_handlers_stack_trace(finished_run: FinishedRun) -> None:
    jobs = finished_run.jobs_of("d.charge", "d.raise_group")
    assert len(jobs) == 2 * len(MODES)
    for job in jobs:
        assert (job.state, job.attempt) == (JobState.FAILED, 2)
        assert job.error is not None
        stack_trace = job.error.stack_trace
        assert stack_trace.startswith("Traceback (most recent call last):\n")
        assert "support/debugged_handlers.py" in stack_trace
        assert "headrace_worker/" not in stack_trace
        if "charge" in job.type:
            assert (job.error.type, job.error.message) == ("RuntimeError", "the card was declined")
            assert "number: Input should be a valid integer" in stack_trace
            assert "Card(number=card)" in stack_trace
            assert stack_trace.endswith("RuntimeError: the card was declined")
        else:
            assert "ValueError: first" in stack_trace
            assert "KeyError: 'second'" in stack_trace
        failures = [line for line in finished_run.log_lines if line.get("job_id") == str(job.id)]
        assert [(line["event"], line["level"]) for line in failures] == [
            ("job_retry_scheduled", "warning"),
            ("job_failed", "error"),
        ]
        for line in failures:
            assert line["error_type"] == job.error.type
            assert line["correlation_id"] == f"trace {job.type}"
            assert "support/debugged_handlers.py" in line["stack_trace"]
        assert failures[-1]["stack_trace"] == stack_trace
        assert [
            event.error.stack_trace for event in finished_run.events[job.id] if event.error
        ] == [
            "",
            "",
        ]
    assert CARD not in finished_run.log


def test_timeout_error_shows_the_handlers_position(finished_run: FinishedRun) -> None:
    errors = {job.type: job.error for job in finished_run.jobs_of("d.wait", "d.cancelled")}
    for job_type, kind, places in (
        ("d.wait.loop", "TIMEOUT", ["in wait_in_loop", "in wait_for_a_bank"]),
        ("d.wait.thread", "TIMEOUT", ["in wait_in_thread"]),
        ("d.cancelled.loop", "CancelledError", ["in cancelled_from_within"]),
    ):
        error = errors[job_type]
        assert error is not None
        assert error.type == kind
        for place in places:
            assert place in error.stack_trace
        assert "headrace_worker/" not in error.stack_trace


async def test_stack_traces_are_not_stored_if_disabled(settings: Settings, tmp_path: Path) -> None:
    off = settings.model_copy(update={"store_stack_traces": False})
    finished_run = await run(off, tmp_path, ("d.charge.loop", {"card": CARD}))
    [job] = finished_run.jobs
    assert job.error is not None
    assert (job.error.type, job.error.stack_trace) == ("RuntimeError", "")
    assert any(
        "debugged_handlers.py" in line.get("stack_trace", "") for line in finished_run.log_lines
    )


def test_unsafe_error_texts_are_sanitized_in_every_mode(finished_run: FinishedRun) -> None:
    jobs = finished_run.jobs_of("d.raise_hostile_error")
    assert len(jobs) == 2 * len(MODES)
    for job in jobs:
        assert job.state is JobState.FAILED
        assert job.error is not None
        kind = "x??y" if "true" in job.payload else "Errr"
        assert job.error.type.startswith(kind)
        assert len(job.error.type) == 200
        assert job.error.message.startswith("x??y")
        assert len(job.error.message) == 2000
        assert len(job.error.stack_trace.encode()) <= 16 * 1024
    assert "\\u0000" not in finished_run.log
    assert "\x00" not in finished_run.log
    assert max(map(len, finished_run.log.splitlines())) < 40_000


def test_handler_log_lines_name_their_job(finished_run: FinishedRun) -> None:
    jobs = finished_run.jobs_of("d.log_lines")
    assert len(jobs) == len(MODES)
    for job in jobs:
        # The handler returns a value from its logging context.
        assert (job.state, job.result) == (JobState.SUCCEEDED, f'"trace {job.type}"')
        job_lines = [line for line in finished_run.log_lines if line.get("job_id") == str(job.id)]
        for line in job_lines:
            assert line["attempt"] == 1
            assert line["type"] == job.type
            assert line["correlation_id"] == f"trace {job.type}"
            assert line["service"] == "worker"
        events = [line["event"] for line in job_lines if line.get("source") == "handler"]
        assert events[:3] == ["by logging", "by_structlog", "flood 0"]
        [dropped] = [line for line in job_lines if line["event"] == "handler_log_dropped"]
        # The handler logs 1,002 lines, of which the worker writes slightly more than 200.
        assert 500 < dropped["lines"] < 1002
        assert len(events) - 1 + dropped["lines"] == 1002


def test_job_log_has_the_lines_of_its_handler_up_to_the_limit(finished_run: FinishedRun) -> None:
    for job in finished_run.jobs_of("d.log_lines"):
        *stored, last = finished_run.job_logs[job.id]
        assert [position for position, _ in stored] == [
            LogPosition(1, number) for number in range(1, 1001)
        ]
        lines = [line for _, line in stored]
        assert [line.message for line in lines] == [
            *("by logging", "by_structlog"),
            *(f"flood {number}" for number in range(998)),
        ]
        assert {(line.logger, line.level) for line in lines} == {
            ("support.debugged_handlers", LogLevel.INFO)
        }
        assert [line.fields for line in lines[:3]] == ["", '{"rows":3}', ""]
        assert (last.line.level, last.line.dropped) == (LogLevel.WARNING, 2)
        assert "HEADRACE_JOB_LOG_LINES" in last.line.message


def test_job_without_lines_has_no_log(finished_run: FinishedRun) -> None:
    silent = finished_run.jobs_of("d.charge", "d.raise_group", "d.wait", "d.cancelled")
    assert [finished_run.job_logs[job.id] for job in silent] == [[]] * len(silent)
