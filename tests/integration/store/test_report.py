"""Reports from running attempts: progress and output."""

from __future__ import annotations

import pytest

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.errors import JobNotFound
from headrace_core.domain.ids import JobId
from headrace_core.domain.job import DEFAULT_TENANT, Progress
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.store.event_log import list_output
from headrace_core.store.sql.database import Database
from support.histories import assert_legal
from support.jobs import history, read_job
from support.states import prepare_job
from support.workers import attempt_end, register, report, start, write_ends


def progress(job_id: JobId, fraction: float, *, attempt: int = 1) -> AttemptReport:
    progress = Progress(fraction=fraction, message=f"{fraction:.0%}", counters='{"rows":  7}')
    return AttemptReport(key=AttemptKey(job_id, attempt), progress=progress)


def output(job_id: JobId, chunk: str, *, attempt: int = 1) -> AttemptReport:
    return AttemptReport(key=AttemptKey(job_id, attempt), output=chunk)


async def test_reports_are_numbered_in_order(
    database: Database,
) -> None:
    worker_id = await register(database)
    prepared = [await prepare_job(database, JobState.QUEUED) for _ in range(3)]
    one, two, silent = [each.job for each in prepared]
    await start(database, worker_id, one, two, silent)
    accepted = await report(
        database,
        worker_id,
        progress(one.id, 0.1),
        output(two.id, '"a"'),
        output(one.id, '"b"'),
        progress(one.id, 0.2),
        output(two.id, '"c"'),
        output(one.id, '"d"'),
    )
    assert accepted == {one.id, two.id}
    reported = [(event.type, event.output) for event in (await history(database, one.id))[2:]]
    assert reported == [
        (EventType.PROGRESSED, None),
        (EventType.OUTPUT, '"b"'),
        (EventType.PROGRESSED, None),
        (EventType.OUTPUT, '"d"'),
    ]
    for job_id in (one.id, two.id, silent.id):
        assert_legal(await read_job(database, job_id), await history(database, job_id))
    # Within the job, log positions increase with the event numbers.
    events = await history(database, one.id)
    places = [(event.xid, event.position) for event in events]
    assert places == sorted(places)


async def test_job_has_its_last_progress(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    job_id = prepared.job.id
    await report(
        database,
        prepared.worker_id,
        progress(job_id, 0.1),
        progress(job_id, 0.3),
        output(job_id, "1"),
    )
    job = await read_job(database, job_id)
    assert job.progress == Progress(fraction=0.3, message="30%", counters='{"rows":  7}')
    reported = [event.progress for event in await history(database, job_id) if event.progress]
    assert [progress.fraction for progress in reported] == [0.1, 0.3]
    # A report with output alone does not change the progress.
    await report(database, prepared.worker_id, output(job_id, "2"))
    assert (await read_job(database, job_id)).progress == job.progress


async def test_new_attempt_resets_progress_and_keeps_output(
    database: Database,
) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    job_id, worker_id = prepared.job.id, prepared.worker_id
    await report(database, worker_id, progress(job_id, 0.9), output(job_id, '"one"'))
    await write_ends(database, worker_id, attempt_end(job_id, 1, EventType.INTERRUPTED))
    await start(database, worker_id, await read_job(database, job_id))
    assert (await read_job(database, job_id)).progress is None
    await report(database, worker_id, output(job_id, '{"two":   2}', attempt=2))
    async with database.transaction() as connection:
        page = await list_output(
            connection, tenant=DEFAULT_TENANT, job_id=job_id, after_seq=0, limit=9
        )
        assert [event.output for event in page.events] == ['"one"', '{"two":   2}']
        with pytest.raises(JobNotFound):
            await list_output(connection, tenant="another", job_id=job_id, after_seq=0, limit=9)


async def test_report_of_another_workers_attempt_is_refused(
    database: Database,
) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    other = await prepare_job(database, JobState.RUNNING)
    before = await history(database, prepared.job.id)
    reports = [
        progress(prepared.job.id, 0.5, attempt=2),
        output(prepared.job.id, "1", attempt=0),
        output(other.job.id, "1"),
    ]
    assert await report(database, prepared.worker_id, *reports) == set()
    assert await history(database, prepared.job.id) == before
    # A refused report does not affect the others.
    mixed = [*reports, progress(prepared.job.id, 0.5)]
    assert await report(database, prepared.worker_id, *mixed) == {prepared.job.id}
    assert len(await history(database, prepared.job.id)) == len(before) + 1
