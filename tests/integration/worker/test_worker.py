"""The whole worker: slots, lease and shutdown."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.trace import TraceContext
from headrace_core.runtime.settings import Settings
from headrace_core.store.jobs.claim import claim_jobs
from headrace_core.store.jobs.read import get_job
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import live_handlers
from headrace_core.wake import Topic
from headrace_worker.service import WorkerService
from support.handlers import handlers
from support.jobs import read_job, submit
from support.platform import DEADLINE_S, platform


async def test_thousand_jobs_end_exactly_once(settings: Settings) -> None:
    async with platform(settings, handlers(), workers=2) as jobs:
        ids = await jobs.submit_many(1000, "t.echo")
        ended = [await jobs.until_ended(job_id) for job_id in ids]
        assert {job.state for job in ended} == {JobState.SUCCEEDED}
        assert {job.attempt for job in ended} == {1}
        async with jobs.database.transaction() as connection:
            rows = await connection.execute(text("SELECT count(*), max(seq) FROM job_events"))
            assert tuple(rows.one()) == (3000, 3)


async def test_running_attempts_never_exceed_the_slots(settings: Settings) -> None:
    adjusted = settings.model_copy(update={"worker_slots": 2, "shutdown_grace": 0.1})
    async with platform(adjusted, handlers()) as jobs:
        ids = await jobs.submit_many(5, "t.forever")
        running: set[object] = set()
        async with asyncio.timeout(DEADLINE_S):
            while len(running) < 2:
                running = {i for i in ids if E.STARTED in await jobs.history(i)}
        await jobs.cancel(next(iter(running)))  # type: ignore[arg-type]
        async with asyncio.timeout(DEADLINE_S):
            while len(running) < 3:
                running = {i for i in ids if E.STARTED in await jobs.history(i)}
        states = [(await jobs.job(job_id)).state for job_id in ids]
        assert states.count(JobState.RUNNING) == 2


async def test_stopped_worker_returns_its_jobs_without_a_retry(
    settings: Settings,
) -> None:
    short_grace = settings.model_copy(update={"shutdown_grace": 0.1})
    async with platform(short_grace, handlers(), workers=0) as jobs:
        worker = WorkerService(short_grace, handlers())
        await worker.start()
        job_id = await jobs.submit("t.forever")
        await jobs.until(job_id, E.STARTED)
        await worker.stop()
        job = await jobs.job(job_id)
        assert (job.state, job.attempt, job.retries_used) == (JobState.QUEUED, 1, 0)
        assert (await jobs.history(job_id))[-1] is E.INTERRUPTED
        async with jobs.database.transaction() as connection:
            assert await live_handlers(connection, tenant="default") == []


async def test_stopped_worker_waits_for_its_attempts(settings: Settings) -> None:
    async with platform(settings, handlers(), workers=0) as jobs:
        worker = WorkerService(settings, handlers())
        await worker.start()
        job_id = await jobs.submit("t.thread", '{"number": 20}')
        await jobs.until(job_id, E.STARTED)
        await worker.stop()
        assert (await jobs.job(job_id)).state is JobState.SUCCEEDED


async def test_job_of_a_lost_worker_is_retried(settings: Settings) -> None:
    async with platform(settings, handlers(), workers=1) as jobs:
        job_id = await jobs.submit("t.forever")
        first = await jobs.until(job_id, E.STARTED)
        async with jobs.database.transaction() as connection:
            # Simulate a killed process whose lease has lapsed.
            await connection.execute(
                text("DELETE FROM workers WHERE id = :id"), {"id": first.worker_id}
            )
        worker_lost = await jobs.until(job_id, E.WORKER_LOST)
        assert worker_lost.state is JobState.QUEUED
        async with asyncio.timeout(DEADLINE_S):
            while (restarted := await jobs.until(job_id, E.STARTED)).attempt == 1:
                pass
        # The worker has lost its lease and registered with a new id.
        assert restarted.worker_id != first.worker_id
        await jobs.cancel(job_id)
        await jobs.until_ended(job_id)


async def test_late_result_of_a_lost_worker_is_refused(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Heartbeats are rare, so the worker does not detect that its row is missing.
    quiet = settings.model_copy(update={"worker_lease": 60.0, "worker_beat": 20.0})
    pipe = tmp_path / "gate"
    os.mkfifo(pipe)
    async with platform(quiet, handlers(), workers=1) as jobs:
        job_id = await jobs.submit("t.read_file", f'"{pipe}"')
        await jobs.until(job_id, E.STARTED)
        async with jobs.database.transaction() as connection:
            await connection.execute(text("DELETE FROM workers"))
        await jobs.until(job_id, E.WORKER_LOST)
        # A write to the pipe lets the handler return.
        await asyncio.to_thread(pipe.write_text, "late")
    # The worker has stopped, so it writes nothing more.
    database = Database(quiet, application="test")
    async with database.transaction() as connection:
        job = await get_job(connection, tenant="default", job_id=job_id, full=True)
    await database.close()
    assert job.state is JobState.QUEUED
    assert job.result is None
    assert "attempt_refused" in "".join(capfd.readouterr())


async def test_claim_with_a_lost_response_is_returned(settings: Settings) -> None:
    adjusted = settings.model_copy(update={"worker_lease": 3.0, "worker_beat": 0.2})
    async with platform(adjusted, handlers()) as jobs:
        running = await jobs.submit("t.forever")
        worker_id = (await jobs.until(running, E.STARTED)).worker_id
        assert worker_id is not None
        # No worker has this type, so only the test claims the job.
        unknown = await jobs.submit("t.unknown")
        async with jobs.database.transaction() as connection:
            claimed = await claim_jobs(
                connection,
                worker_id=WorkerId(worker_id),
                deliveries=[AttemptKey(unknown, 1)],
            )
        assert len(claimed) == 1
        await jobs.until(unknown, E.INTERRUPTED)
        job = await jobs.job(unknown)
        assert (job.state, job.retries_used) == (JobState.QUEUED, 0)
        assert (await jobs.job(running)).state is JobState.RUNNING


async def test_output_continues_after_connection_losses(settings: Settings) -> None:
    async with platform(settings, handlers()) as jobs:
        job_id = await jobs.submit("t.output", '{"number": 200}')
        await jobs.until(job_id, E.OUTPUT)
        async with jobs.database.transaction() as connection:
            await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
                    "current_database() AND application_name = 'headrace-worker'"
                )
            )
        job = await jobs.until_ended(job_id)
        assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
        outputs = [event.output for event in await jobs.events(job_id) if event.output]
        # The history may contain an output twice if its commit was interrupted.
        assert list(dict.fromkeys(outputs)) == [f'{{"n":{number}}}' for number in range(200)]
        assert len(outputs) <= 201


async def test_attempt_with_a_refused_report_ends(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    # Heartbeats are rare, so the worker does not detect that its row is missing.
    quiet = settings.model_copy(update={"worker_lease": 60.0, "worker_beat": 20.0})
    async with platform(quiet, handlers(), workers=1) as jobs:
        job_id = await jobs.submit("t.emit_forever")
        await jobs.until(job_id, E.OUTPUT)
        async with jobs.database.transaction() as connection:
            await connection.execute(text("DELETE FROM workers"))
        output = ""
        async with asyncio.timeout(DEADLINE_S):
            while "attempt_refused" not in output:
                await jobs.wait_for_wake_up()
                output += "".join(capfd.readouterr())


async def test_worker_runs_jobs_of_several_tenants(settings: Settings) -> None:
    several_tenants = settings.model_copy(update={"worker_tenants": ("acme", "globex")})
    async with platform(several_tenants, handlers()) as jobs:
        submitted = [
            await submit(jobs.database, type="t.tenant", tenant=name)
            for name in ("acme", "globex", "other")
        ]
        jobs.bus.publish(Topic.JOBS)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                read = [
                    await read_job(jobs.database, job.id, tenant=job.tenant) for job in submitted
                ]
                if all(job.state is JobState.SUCCEEDED for job in read[:2]):
                    break
                await jobs.wait_for_wake_up()
        assert [job.result for job in read[:2]] == ['"acme"', '"globex"']
        assert read[2].state is JobState.QUEUED


@pytest.mark.parametrize("job_type", ["t.trace", "t.trace.process"])
async def test_handler_receives_the_trace_context_of_the_submit(
    settings: Settings, job_type: str
) -> None:
    context = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=1,b=2")
    async with platform(settings, handlers()) as jobs:
        traced = await jobs.submit(job_type, trace_context=context)
        plain = await jobs.submit(job_type)
        job = await jobs.until_ended(traced)
        assert json.loads(job.result or "") == context._asdict()
        assert job.trace_context == context
        assert (await jobs.until_ended(plain)).result == "{}"
