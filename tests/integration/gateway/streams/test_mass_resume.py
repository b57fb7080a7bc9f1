"""Many streams resume at once, as after a gateway restart."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_core.store.event_log import read_range
from headrace_core.store.sql.database import Database
from headrace_gateway.streams import Mark, Watch, history
from support.jobs import submit_many
from support.watching import Reader, follow_jobs

STREAMS = 40
JOBS = 1200


def has_caught_up(reader: Reader) -> bool:
    return any(page.mark is Mark.CAUGHT_UP for page in reader.pages)


async def test_resuming_streams_share_reads_of_past_events(
    watch: Watch, database: Database, monkeypatch: pytest.MonkeyPatch
):
    rows = 0

    async def read_and_count(*arguments: Any, **named: Any) -> Any:
        nonlocal rows
        page = await read_range(*arguments, **named)
        rows += len(page.events)
        return page

    monkeypatch.setattr(history, "read_range", read_and_count)
    early_reader = follow_jobs(watch)
    await early_reader.until(has_caught_up)
    cursor = early_reader.pages[-1].cursor
    missed = [job.id for job in await submit_many(database, JOBS)]
    await early_reader.has(JOBS)
    readers = [follow_jobs(watch, cursor) for _ in range(STREAMS)]
    later_readers = [
        follow_jobs(watch, early_reader.pages[len(early_reader.pages) // 2].cursor)
        for _ in range(STREAMS)
    ]
    for reader in (*readers, *later_readers):
        await reader.until(has_caught_up)
    for reader in readers:
        assert [event.job_id for event in reader.events] == missed
    for reader in later_readers:
        assert 0 < len(reader.events) < JOBS
        assert [event.job_id for event in reader.events] == missed[-len(reader.events) :]
    # Concurrent streams share most reads, so they read far fewer rows than separate reads would.
    assert rows < JOBS * STREAMS / 4
    (job,) = await submit_many(database, 1)
    for reader in (early_reader, *readers, *later_readers):
        await reader.until(lambda reader: reader.events[-1].job_id == job.id)
        await reader.cancel()
