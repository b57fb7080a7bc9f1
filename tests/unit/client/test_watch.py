"""Watches of many jobs, against a real server in this process."""

import asyncio
from uuid import uuid4

import pytest

from headrace import Client, CursorExpired, DeadlineExceeded, JobState, Unavailable
from headrace._timing import Timing


@pytest.fixture
async def client(server):
    async with Client(server.target) as client:
        yield client


async def take(watch, count):
    return [await anext(watch) for _ in range(count)]


async def test_started_watch_misses_no_event(client):
    async with client.watch() as watch:
        assert watch.caught_up
        job = await client.submit("wait")
        events = await take(watch, 2)

    assert [(event.job_id, event.seq) for event in events] == [(job.id, 1), (job.id, 2)]


async def test_watch_yields_only_matching_events(client, platform):
    async with client.watch(
        queues=["a", "b"], types=["fails"], states=[JobState.FAILED], labels={"team": "ml"}
    ) as watch:
        await client.submit("fails", queue="c", labels={"team": "ml"})
        await client.submit("fails", queue="a", labels={"team": "ops"})
        await client.submit("square_sum", {"data": []}, queue="a", labels={"team": "ml"})
        job = await client.submit("fails", queue="b", labels={"team": "ml"})

        event = await anext(watch)

    assert (event.job_id, event.state) == (job.id, JobState.FAILED)
    assert event.error.message == "no good"


async def test_watch_sends_all_filters(client, platform):
    batch, *jobs = (str(uuid4()) for _ in range(3))
    async with client.watch(batch_id=batch, job_ids=jobs, states=["QUEUED"]):
        pass

    job_filter = platform.last_request("WatchJobs").filter
    assert (job_filter.batch_id, list(job_filter.job_ids)) == (batch, jobs)
    assert len(job_filter.states) == 1


async def test_unknown_state_is_rejected_without_a_call(client):
    with pytest.raises(ValueError, match="NOSUCH"):
        client.watch(states=["NOSUCH"])


async def test_watch_from_a_cursor_yields_later_events(client):
    async with client.watch() as watch:
        first = await client.submit("wait")
        await take(watch, 2)
        cursor = watch.cursor
    second = await client.submit("wait")

    async with client.watch(cursor=cursor) as watch:
        seen = set()
        while len(seen) < 2 or (second.id, 2) not in seen:
            event = await anext(watch)
            seen.add((event.job_id, event.seq))

    assert {(second.id, 1), (second.id, 2)} <= seen
    # This server repeats the newest event, which any server may do.
    assert seen <= {(first.id, 2), (second.id, 1), (second.id, 2)}


async def test_cursor_advances_after_a_complete_response(client, platform):
    await client.submit("wait")
    async with client.watch(cursor="0") as watch:
        first = await anext(watch)
        assert (first.seq, watch.cursor) == (1, "0")
        second = await anext(watch)
        assert (second.seq, watch.cursor) == (2, "2")


async def test_cut_watch_of_many_jobs_yields_each_event_once(client, platform):
    async with client.watch() as watch:
        first = await client.submit("wait")
        events = await take(watch, 2)
        platform.cut()
        ahead = asyncio.create_task(anext(watch))
        await platform.until(lambda: platform.called_methods().count("WatchJobs") == 2)
        second = await client.submit("wait")
        events += [await ahead, await anext(watch)]

    assert [(event.job_id, event.seq) for event in events] == [
        (first.id, 1),
        (first.id, 2),
        (second.id, 1),
        (second.id, 2),
    ]


async def test_expired_cursor_error_has_the_oldest_cursor(client, platform):
    await client.submit("wait")
    platform.prune()
    with pytest.raises(CursorExpired) as caught:
        async with client.watch(cursor="1"):
            pass

    assert caught.value.oldest_cursor == "2"


async def test_start_of_a_watch_has_a_deadline(server, platform):
    platform.silent = True
    async with Client(server.target, timeout=0.2) as client:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
            async with client.watch():
                pass
    platform.silent = False
    platform.wake()


async def test_silent_watch_resumes(server, platform):
    client = Client(server.target, _timing=Timing(max_silence=0.1))
    async with client, client.watch() as watch:
        ahead = asyncio.create_task(anext(watch))
        await platform.until(lambda: platform.called_methods().count("WatchJobs") >= 2)
        await client.submit("wait")

        assert (await ahead).seq == 1


async def test_watch_without_a_gateway_is_unavailable(server):
    await server.stop()
    async with Client(server.target, resume_timeout=0.1) as client:
        with pytest.raises(Unavailable):
            async with client.watch():
                pass
    await server.start()
