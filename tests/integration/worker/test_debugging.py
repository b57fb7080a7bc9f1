"""The error of a failed job and the worker's log, in each of the three modes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from headrace_core.domain.job import Job
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_worker.api.registry import Registry
from support.platform import platform
from support.worker_process import worker_process

MODES = ("loop", "thread", "process")
CARD = "4111-1111"


async def run(
    settings: Settings, folder: Path, *submits: tuple[str, dict[str, Any]]
) -> tuple[dict[str, Job], list[dict[str, Any]], dict[str, list[Any]], str]:
    """Runs jobs on a worker in a process of its own.

    Returns:
        The ended jobs by type and payload, the lines of the log, events by the same, the log.
    """
    jobs: dict[str, Job] = {}
    events: dict[str, list[Any]] = {}
    async with (
        platform(settings, Registry(), workers=0) as running,
        worker_process(running.settings, folder, handlers="support.debugged_handlers") as worker,
    ):
        names = [f"{job_type} {json.dumps(payload)}" for job_type, payload in submits]
        ids = [
            await running.submit(job_type, json.dumps(payload), correlation_id=f"trace {job_type}")
            for job_type, payload in submits
        ]
        for name, job_id in zip(names, ids, strict=True):
            jobs[name] = await running.ended(job_id)
            events[name] = await running.events(job_id)
        await asyncio.to_thread(worker.stop)
        log = worker.log.read_text()
    return jobs, [json.loads(line) for line in log.splitlines()], events, log


async def test_failed_job_shows_where_its_handler_failed(
    settings: Settings, tmp_path: Path
) -> None:
    submits = [
        (f"d.{name}.{mode}", {"card": CARD}) for name in ("charge", "many") for mode in MODES
    ]
    jobs, lines, events, log = await run(settings, tmp_path, *submits)
    for name, job in jobs.items():
        assert (job.state, job.attempt) == (JobState.FAILED, 2)
        assert job.error is not None
        trace = job.error.stack_trace
        assert trace.startswith("Traceback (most recent call last):\n")
        assert "support/debugged_handlers.py" in trace
        assert "headrace_worker/" not in trace
        if "charge" in name:
            assert (job.error.type, job.error.message) == ("RuntimeError", "the card was refused")
            assert "number: Input should be a valid integer" in trace
            assert "Card(number=card)" in trace
            assert trace.endswith("RuntimeError: the card was refused")
        else:
            assert "ValueError: first" in trace
            assert "KeyError: 'second'" in trace
        failures = [line for line in lines if line.get("job_id") == str(job.id)]
        assert [(line["event"], line["level"]) for line in failures] == [
            ("job_retry_scheduled", "warning"),
            ("job_failed", "error"),
        ]
        for line in failures:
            assert line["error_type"] == job.error.type
            assert line["correlation_id"] == f"trace {job.type}"
            assert "support/debugged_handlers.py" in line["stack_trace"]
        assert failures[-1]["stack_trace"] == trace
        assert [event.error.stack_trace for event in events[name] if event.error] == ["", ""]
    assert CARD not in log


async def test_timeout_shows_where_the_handler_was(settings: Settings, tmp_path: Path) -> None:
    types = ("d.wait.loop", "d.wait.thread", "d.cancelled.loop")
    jobs, _, _, _ = await run(settings, tmp_path, *((job_type, {}) for job_type in types))
    errors = {job.type: job.error for job in jobs.values()}
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


async def test_stack_traces_are_not_stored_when_turned_off(
    settings: Settings, tmp_path: Path
) -> None:
    off = settings.model_copy(update={"store_stack_traces": False})
    jobs, lines, _, _ = await run(off, tmp_path, ("d.charge.loop", {"card": CARD}))
    [job] = jobs.values()
    assert job.error is not None
    assert (job.error.type, job.error.stack_trace) == ("RuntimeError", "")
    assert any("debugged_handlers.py" in line.get("stack_trace", "") for line in lines)


async def test_hostile_error_texts_are_cleaned_in_every_mode(
    settings: Settings, tmp_path: Path
) -> None:
    submits = [(f"d.hostile.{mode}", {"fail": fail}) for mode in MODES for fail in (True, False)]
    jobs, _, _, log = await run(settings, tmp_path, *submits)
    for name, job in jobs.items():
        assert job.state is JobState.FAILED
        assert job.error is not None
        kind = "x??y" if "true" in name else "Errr"
        assert job.error.type.startswith(kind)
        assert len(job.error.type) == 200
        assert job.error.message.startswith("x??y")
        assert len(job.error.message) == 2000
        assert len(job.error.stack_trace.encode()) <= 16 * 1024
    assert "\\u0000" not in log
    assert "\x00" not in log
    assert max(map(len, log.splitlines())) < 40_000


async def test_handler_lines_have_the_facts_of_their_job(
    settings: Settings, tmp_path: Path
) -> None:
    jobs, lines, _, _ = await run(settings, tmp_path, *((f"d.speak.{mode}", {}) for mode in MODES))
    for job in jobs.values():
        # The handler returns the values of its context.
        assert (job.state, job.result) == (JobState.SUCCEEDED, f'"trace {job.type}"')
        own = [line for line in lines if line.get("job_id") == str(job.id)]
        for line in own:
            assert line["attempt"] == 1
            assert line["type"] == job.type
            assert line["correlation_id"] == f"trace {job.type}"
            assert line["service"] == "worker"
        events = [line["event"] for line in own if line.get("source") == "handler"]
        assert events[:3] == ["by logging", "by_structlog", "flood 0"]
        [dropped] = [line for line in own if line["event"] == "handler_log_dropped"]
        # The handler logs 1,002 lines, and a few more than 200 are written.
        assert 500 < dropped["lines"] < 1002
        assert len(events) - 1 + dropped["lines"] == 1002
