"""Streams with cuts, silence, slow programs, stuck gateways and cancelled waits."""

import asyncio
import socket
from dataclasses import replace

import grpc
import pytest

from headrace import Client, CursorExpired, InternalError, SlowConsumer, Unavailable
from headrace._timing import Backoff, Timing
from support.until import until


@pytest.fixture
async def client(server):
    async with Client(server.target) as client:
        yield client


@pytest.fixture
def stuck_target():
    """A gateway that accepts connections but never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield "{}:{}".format(*listener.getsockname())


@pytest.fixture
def waits():
    """The waits that `recording_timing` records, before jitter."""
    return []


@pytest.fixture
def recording_timing(waits):
    """Timing with a backoff that records its waits instead of waiting."""

    class RecordingBackoff(Backoff):
        def next(self, requested=None):
            waits.append(self._base)
            super().next(requested)
            return 0.0

    return Timing(backoff=RecordingBackoff)


@pytest.fixture
async def impatient_client(server, recording_timing):
    """A client that resumes its streams at once and records the waits."""
    async with Client(server.target, _timing=recording_timing) as client:
        yield client


async def await_within(seconds, wait):
    async with asyncio.timeout(seconds):
        return await wait


async def until_called(platform, method, count):
    await platform.until(lambda: platform.called_methods().count(method) >= count)


# A slow program


async def test_slow_watch_resumes_without_waiting(impatient_client, platform, waits):
    async with impatient_client.watch() as watch:
        first = await impatient_client.submit("wait")
        seen = [await anext(watch), await anext(watch)]
        cursor = watch.cursor
        platform.end_as_slow()
        ahead = asyncio.create_task(anext(watch))
        await until_called(platform, "WatchJobs", 2)
        platform.finish(first.id)
        seen.append(await await_within(30, ahead))

    assert [event.seq for event in seen] == [1, 2, 3]
    assert (watch.resumes, waits) == (1, [])
    assert platform.last_request("WatchJobs").cursor == cursor


async def test_slow_job_watch_resumes_without_waiting(impatient_client, platform, waits):
    job = await impatient_client.submit("wait")
    async with job.watch() as watch:
        seen = [await anext(watch), await anext(watch)]
        platform.end_as_slow()
        ahead = asyncio.create_task(anext(watch))
        await until_called(platform, "WatchJob", 2)
        platform.finish(job.id)
        seen.append(await await_within(30, ahead))

    assert [event.seq for event in seen] == [1, 2, 3]
    assert (watch.resumes, watch.seq, waits) == (1, 3, [])


async def test_watch_rejected_as_slow_backs_off(server, platform, waits, recording_timing):
    async with Client(server.target, retries=3, _timing=recording_timing) as client:
        platform.reject_with = grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER"
        with pytest.raises(SlowConsumer):
            await anext(client.watch())

    assert waits == [0.25, 0.5, 1.0, 2.0]


async def test_watch_reset_after_stable_service_resumes_at_once(
    server, platform, waits, recording_timing
):
    timing = replace(recording_timing, stable_after=0.0)
    async with Client(server.target, _timing=timing) as client, client.watch() as watch:
        platform.end(grpc.StatusCode.CANCELLED)
        ahead = asyncio.create_task(anext(watch))
        await until_called(platform, "WatchJobs", 2)
        await client.submit("wait")
        assert (await await_within(30, ahead)).seq == 1

    assert (watch.resumes, waits) == (1, [])


# Cuts and ends of a stream


@pytest.mark.parametrize("code", ["CANCELLED", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"])
async def test_watch_cut_by_a_proxy_resumes(client, platform, code):
    async with client.watch() as watch:
        ahead = asyncio.create_task(anext(watch))
        platform.end(grpc.StatusCode[code])
        await until_called(platform, "WatchJobs", 2)
        await client.submit("wait")

        assert (await await_within(30, ahead)).seq == 1
    assert watch.resumes == 1


async def test_watch_ended_with_ok_resumes(client, platform):
    async with client.watch() as watch:
        ahead = asyncio.create_task(anext(watch))
        platform.end(None)
        await until_called(platform, "WatchJobs", 2)
        await client.submit("wait")

        assert (await await_within(30, ahead)).seq == 1


async def test_gateway_error_ends_the_watch(client, platform):
    async with client.watch() as watch:
        platform.end(grpc.StatusCode.INTERNAL, "INTERNAL")
        with pytest.raises(InternalError):
            await anext(watch)


async def test_expired_cursor_error_contains_the_oldest_cursor(client, platform):
    await client.submit("wait")
    platform.prune()
    with pytest.raises(CursorExpired, match=r"continue from oldest_cursor.*\(oldest_cursor: 2\)"):
        await anext(client.watch(cursor="1"))


async def test_watch_continues_after_an_error(server, platform):
    async with Client(server.target, resume_timeout=0.1) as client, client.watch() as watch:
        await client.submit("wait")
        assert (await anext(watch)).seq == 1
        assert (await anext(watch)).seq == 2
        platform.unavailable = 1000
        platform.cut()
        with pytest.raises(Unavailable):
            await anext(watch)
        platform.unavailable = 0
        ahead = asyncio.create_task(anext(watch))
        await until_called(platform, "WatchJobs", 2)
        await client.submit("wait")

        assert (await await_within(30, ahead)).seq == 1


# Retries


async def test_backoff_grows_until_a_new_event(impatient_client, platform, waits):
    platform.cut_at_mark = True
    async with impatient_client.watch() as watch:
        ahead = asyncio.create_task(anext(watch))
        await platform.until(lambda: len(waits) >= 4)
        platform.cut_at_mark = False
        await impatient_client.submit("wait")
        await await_within(30, ahead)
        await await_within(30, anext(watch))
        wait_count = len(waits)
        platform.cut()
        ahead = asyncio.create_task(anext(watch))
        await impatient_client.submit("wait")
        await await_within(30, ahead)

    assert waits[:4] == [0.25, 0.5, 1.0, 2.0]
    assert waits[wait_count] == 0.25


async def test_watch_of_a_quiet_job_survives_repeated_cuts(server, platform):
    timing = Timing(max_stream_backoff=0.3)
    async with Client(server.target, resume_timeout=0.5, _timing=timing) as client:
        job = await client.submit("wait")
        watch = job.watch()
        seen = [await anext(watch), await anext(watch)]
        ahead = asyncio.create_task(anext(watch))
        # Each wait is at least 0.125 s, so the waits exceed half a second in total.
        for resumes in range(1, 6):
            platform.cut()
            await until(lambda: watch.resumes == resumes or ahead.done())  # noqa: B023
        platform.finish(job.id)
        seen += [await await_within(30, ahead), *[event async for event in watch]]

    assert [event.seq for event in seen] == [1, 2, 3]


# Stuck gateways


async def test_watch_leaves_a_gateway_that_does_not_accept_it(stuck_target, server, platform):
    async with Client([stuck_target, server.target], timeout=8) as client, client.watch() as watch:
        assert watch.caught_up
        await client.submit("wait")
        assert (await await_within(30, anext(watch))).seq == 1


async def test_job_watch_leaves_a_gateway_that_does_not_accept_it(stuck_target, server, platform):
    async with Client(server.target) as client:
        job = await client.submit("wait")
    async with Client([stuck_target, server.target], timeout=8) as client:
        assert (await await_within(30, anext(client.watch_job(job.id)))).seq == 1


async def test_watch_of_a_quiet_job_waits_at_a_healthy_gateway(server, platform):
    async with Client(server.target, _timing=Timing(health_check_after=0.05)) as client:
        job = await client.submit("wait")
        watch = job.watch()
        await anext(watch)
        await anext(watch)
        ahead = asyncio.create_task(anext(watch))
        await until(lambda: server.health.checks >= 3)
        platform.finish(job.id)

        assert (await await_within(30, ahead)).seq == 3
    assert watch.resumes == 0


async def test_watch_leaves_an_unresponsive_gateway(server, second_server, platform):
    timing = Timing(health_check_after=0.05, health_timeout=2.0)
    async with Client([server.target, second_server.target], _timing=timing) as client:
        job = await client.submit("wait")
        watch = job.watch()
        await anext(watch)
        await anext(watch)
        server.health.responding.clear()
        ahead = asyncio.create_task(anext(watch))
        await platform.until(lambda: platform.ended_streams[job.id] == 1)
        await until(lambda: second_server.health.checks)
        platform.finish(job.id)

        assert (await await_within(30, ahead)).seq == 3
    assert watch.resumes == 1
    server.health.responding.set()


async def test_watch_starts_while_the_gateway_reads_the_history(server, platform):
    platform.reading = True
    async with Client(server.target, timeout=3) as client, client.watch(cursor="0") as watch:
        assert not watch.caught_up
        platform.reading = False
        platform.wake()
        ahead = asyncio.create_task(anext(watch))
        await platform.until(lambda: platform.started_streams["*"])
        await client.submit("wait")

        assert (await await_within(30, ahead)).seq == 1
    assert platform.called_methods().count("WatchJobs") == 1


# Cancelled waits and closed watches


async def test_cancelled_wait_loses_no_event(client, platform):
    job = await client.submit("wait")
    async with client.watch() as watch, job.watch(after_seq=2) as one:
        for stream in (watch, one):
            with pytest.raises(TimeoutError):
                await await_within(0.05, anext(stream))
        platform.finish(job.id)

        assert (await await_within(30, anext(watch))).seq == 3
        assert [event.seq async for event in one] == [3]
    assert (
        platform.called_methods().count("WatchJobs")
        == platform.called_methods().count("WatchJob")
        == 1
    )


async def test_cancelled_wait_without_a_gateway_loses_no_event(server, platform):
    async with Client(server.target) as client:
        job = await client.submit("wait")
        watch = job.watch(after_seq=2)
        with pytest.raises(TimeoutError):
            await await_within(0.05, anext(watch))
        await server.stop()
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await await_within(0.05, anext(watch))
        await server.start()
        platform.finish(job.id)

        assert [event.seq async for event in watch] == [3]


async def test_unreferenced_watch_ends(client, platform):
    job = await client.submit("wait")

    async def follow(stream):
        async for _ in stream:
            pass

    # Neither watch is closed.
    tasks = [asyncio.create_task(follow(job.watch())), asyncio.create_task(follow(client.watch()))]
    await platform.until(lambda: platform.started_streams[job.id] and platform.started_streams["*"])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    del task, tasks

    await platform.until(lambda: platform.ended_streams[job.id] and platform.ended_streams["*"])


async def test_closed_watch_ends_the_wait_of_another_task(client, platform):
    job = await client.submit("wait")
    watch = job.watch(after_seq=2)
    ahead = asyncio.create_task(anext(watch, "the end"))
    await platform.until(lambda: platform.started_streams[job.id])

    await watch.aclose()

    assert await await_within(30, ahead) == "the end"
    assert await anext(watch, "the end") == "the end"
    await platform.until(lambda: platform.ended_streams[job.id])


async def test_closed_watch_ends_the_wait_for_a_gateway(server):
    await server.stop()
    async with Client(server.target) as client:
        watch = client.watch_job("a")
        ahead = asyncio.create_task(anext(watch, "the end"))
        with pytest.raises(TimeoutError):
            await await_within(0.3, asyncio.shield(ahead))
        await watch.aclose()

        assert await await_within(1, ahead) == "the end"
    await server.start()


async def test_watch_in_two_tasks_raises_an_error(client, platform):
    async with client.watch() as watch:
        ahead = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(watch)
        await client.submit("wait")

        assert (await await_within(30, ahead)).seq == 1


async def test_queue_serving_returns_the_health_of_a_queue(client, server):
    assert not await client.queue_serving("mail")

    await server.health.set("queue/mail", 1)
    assert await client.queue_serving("mail")

    await server.health.set("queue/mail", 2)
    assert not await client.queue_serving("mail")
