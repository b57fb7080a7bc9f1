"""The synchronous client, in threads beside the server's event loop."""

import asyncio
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from headrace import Client, JobFailed, JobNotFound, JobSpec, SubscriptionNotFound, SyncClient


@pytest.fixture
async def use(server):
    """A function that calls `work` with a client in a thread, like a synchronous program."""

    async def use(work):
        def run():
            with SyncClient(server.target) as client:
                return work(client)

        async with asyncio.timeout(30):
            return await asyncio.to_thread(run)

    return use


async def test_job_is_submitted_followed_and_returns_its_result(use):
    def work(client):
        job = client.submit("square_sum", {"data": [1, 2]}, labels={"a": "b"})
        return [event.seq for event in job.watch()], job.result(timeout=30), job.get().labels

    assert await use(work) == ([1, 2, 3, 4, 5], 5, {"a": "b"})


async def test_sync_client_has_all_methods_of_the_async_client(use):
    def work(client):
        batch = client.submit_many([JobSpec("wait") for _ in range(3)])
        assert [job.id for job in batch] == [batch[n].id for n in range(len(batch))]
        assert batch.jobs[0].cancel().state == "CANCELLED"
        assert batch.jobs[0].retry().state == "QUEUED"
        assert [len(b) for b in client.submit_in_batches([JobSpec("wait")] * 3, size=2)] == [2, 1]
        assert len(list(client.list(page_size=2))) == 6
        assert [e.seq for e in client.events(batch.jobs[1].id)] == [1, 2]
        assert [e.seq for e in client.submit_and_watch("fails")] == [1, 2, 3]
        assert client.get(batch.jobs[1].id).id == client.job(batch.jobs[1].id).get().id
        assert client.stats().states
        assert client.handlers()
        job = client.submit("square_sum", {"data": [1]})
        assert [piece.output for piece in client.output(job.id)] == ["half"]
        assert [piece.output for piece in job.output()] == ["half"]
        assert client.ping()

    await use(work)


async def test_sync_client_raises_the_same_errors(use):
    def work(client):
        with pytest.raises(JobNotFound):
            client.get(str(uuid4()))
        with pytest.raises(JobFailed):
            client.submit("fails").result()

    await use(work)


async def test_sync_watch_yields_events(use):
    def work(client):
        with client.watch(types=["wait"]) as watch:
            assert watch.caught_up
            job = client.submit("wait")
            for event in watch:
                if event.seq == 2:
                    break
            return job.id == event.job_id and bool(watch.cursor)

    assert await use(work)


async def test_sync_subscription_is_received_and_acknowledged(use, platform):
    def work(client):
        created = client.create_subscription("billing", types=["wait"])
        assert [s.name for s in client.subscriptions()] == [created.name]
        client.submit("wait")
        with client.subscribe("billing", consumer="a") as events:
            assert (events.name, events.consumer, events.standby) == ("billing", "a", False)
            for event in events:
                acknowledged = events.ack()
                if event.seq == 2:
                    break
            assert (acknowledged, events.resumes) == (True, 0)
            cursor = events.cursor
            assert client.subscription("billing").consumer == "a"
        client.ack_subscription("billing", cursor)
        client.delete_subscription("billing")
        with pytest.raises(SubscriptionNotFound), client.subscribe("billing"):
            pass
        assert not client.queue_serving("unserved")

    await use(work)
    assert platform.called_methods().count("AckSubscription") == 3


async def test_sync_wait_can_be_ended(use, platform):
    def work(client):
        job = client.submit("wait")
        with pytest.raises(TimeoutError):
            job.result(timeout=0.05)
        events = job.watch()
        next(events)
        events.close()
        return job.get().state

    assert await use(work) == "RUNNING"


async def test_sync_client_is_shared_by_threads(use):
    def work(client):
        results = []

        def one(n):
            results.append(client.submit("square_sum", {"data": [n]}).result())

        threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(results)

    assert await use(work) == [n * n for n in range(8)]


async def test_submits_of_threads_share_messages(use, platform):
    def work(client):
        shared = threading.Event()

        def submit_until_shared():
            ids = []
            while not shared.is_set():
                ids.append(client.submit("queued").id)
                if "SubmitJobs" in platform.called_methods():
                    shared.set()
            return ids

        with ThreadPoolExecutor(8) as threads:
            submits = [threads.submit(submit_until_shared) for _ in range(8)]
            return [job_id for submit in submits for job_id in submit.result()]

    ids = await use(work)
    assert "SubmitJobs" in platform.called_methods()
    assert len(ids) == len(set(ids)) == len(platform.jobs)


async def test_closed_sync_client_has_no_thread(server):
    def run():
        client = SyncClient(server.target)
        client.ping()
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.ping()
        assert not [t for t in threading.enumerate() if t.name == "headrace-client"]

    await asyncio.to_thread(run)


PROGRAM = """
from headrace import SyncClient
with SyncClient() as client:
    job = client.submit("wait")
    try:
        {wait}
    except KeyboardInterrupt:
        print("interrupted", client.get(job.id).state, flush=True)
"""


@pytest.mark.parametrize(
    "wait", ["job.result()", "list(job.watch())", "next(iter(client.watch(types=['unknown'])))"]
)
async def test_ctrl_c_ends_a_wait_and_keeps_the_client(server, platform, wait):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM.format(wait=wait),
        env={"HEADRACE_TARGET": server.target},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await platform.until(lambda: sum(platform.started_streams.values()))

    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(30):
        out, err = await process.communicate()

    assert (process.returncode, out, err) == (0, b"interrupted RUNNING\n", b"")


WATCH_PROGRAM = """
from headrace import SyncClient
with SyncClient() as client:
    client.create_subscription("billing")
    with client.subscribe("billing") as events:
        while True:
            try:
                print("receiving", flush=True)
                for event in events:
                    print(event.seq, events.ack(), flush=True)
                break
            except KeyboardInterrupt:
                print("interrupted", events.ack(), flush=True)
"""


async def test_ctrl_c_neither_loses_nor_acknowledges_events(server, platform):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WATCH_PROGRAM),
        env={"HEADRACE_TARGET": server.target},
        stdout=asyncio.subprocess.PIPE,
    )
    lines = []
    async with asyncio.timeout(30):
        for _ in range(3):
            assert await process.stdout.readline() == b"receiving\n"
            process.send_signal(signal.SIGINT)
            lines.append(await process.stdout.readline())
        assert await process.stdout.readline() == b"receiving\n"
        async with Client(server.target) as client:
            await client.submit("wait")
            lines += [await process.stdout.readline() for _ in range(2)]
            await client.delete_subscription("billing")
        await process.wait()

    assert lines == [b"interrupted True\n"] * 3 + [b"1 True\n", b"2 True\n"]
    assert platform.started_streams["billing"] == 1
