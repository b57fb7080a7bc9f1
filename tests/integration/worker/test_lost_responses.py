"""Writes of a worker whose responses are lost."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.connection import Connection
from headrace_worker.service import WorkerService
from headrace_worker.writes import ends, reports
from support.handlers import handlers
from support.platform import platform


async def test_output_with_a_lost_response_is_written_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, lost_responses = reports.write_reports, []

    async def write_and_lose_response(connection: Connection, **options: Any) -> set[Any]:
        written = await write(connection, **options)
        # The responses of the first two commits are lost.
        if len(lost_responses) < 2:
            lost_responses.append(options["reports"])
            raise TimeoutError
        return written

    monkeypatch.setattr(reports, "write_reports", write_and_lose_response)
    async with platform(settings, handlers()) as jobs:
        job_id = await jobs.submit("t.output", '{"number": 4}')
        assert (await jobs.until_ended(job_id)).state is JobState.SUCCEEDED
        outputs = [event.output for event in await jobs.events(job_id) if event.type is E.OUTPUT]
    assert outputs == ['{"n":0}', '{"n":1}', '{"n":2}', '{"n":3}']
    assert len(lost_responses) == 2


async def test_end_with_a_lost_response_is_not_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, lost_responses = ends.end_attempts, []

    async def write_and_lose_response(connection: Connection, **options: Any) -> dict[Any, E]:
        events = await write(connection, **options)
        if not lost_responses:
            lost_responses.append(events)
            raise TimeoutError
        return events

    monkeypatch.setattr(ends, "end_attempts", write_and_lose_response)
    async with platform(settings, handlers(), workers=0) as jobs:
        worker = WorkerService(settings, handlers())
        await worker.start()
        job_id = await jobs.submit("t.echo")
        assert (await jobs.until_ended(job_id)).state is JobState.SUCCEEDED
        await worker.stop()
        assert worker.counts.ended[E.SUCCEEDED] == 1
        assert worker.counts.ends_refused == 0
    assert [list(events.values()) for events in lost_responses] == [[E.SUCCEEDED]]
