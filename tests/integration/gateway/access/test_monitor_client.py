"""Workers, queues, overviews and histories with the Python client and the command line."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import struct
import sys
import termios
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

from headrace import Client, JobState, SyncClient
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import parse_id
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support import workers
from support.command_line import Headrace
from support.gateway import TIMEOUT


async def run_one_of_two(client: Client, database: Database) -> str:
    """Submit two jobs, start one of them, and return its id."""
    worker_id = await workers.register(database, queues=["mail"], slots=4)
    job = await client.submit("test", queue="mail")
    await client.submit("test", queue="mail")
    await workers.claim(database, worker_id, [AttemptKey(parse_id(job.id), 1)])
    return job.id


async def test_client_reads_workers_queues_and_history(target: str, database: Database) -> None:
    async with Client(target) as client:
        job_id = await run_one_of_two(client, database)
        [worker] = [worker async for worker in client.workers()]
        [queue] = [queue async for queue in client.queues()]
        history = await client.history(timedelta(minutes=10), step=120, queue="mail")
    assert (worker.slots, worker.busy_slots, worker.live) == (4, 1, True)
    assert [job.job_id for job in worker.running_jobs] == [job_id]
    assert worker.start_time is not None
    assert (queue.queue, queue.slots) == ("mail", 4)
    assert queue.states == {JobState.QUEUED: 1, JobState.RUNNING: 1}
    assert queue.oldest_queue_time is not None
    assert (len(history.points), history.step) == (5, timedelta(minutes=2))
    assert (history.points[0].submitted, history.points[0].wait.p50) == (0, None)


async def test_client_follows_the_overview(target: str, database: Database) -> None:
    async with Client(target) as client, asyncio.timeout(TIMEOUT):
        await run_one_of_two(client, database)
        async with aclosing(client.watch_overview(interval=0.1)) as overviews:
            overview = await anext(overviews)
            assert overview.states == {JobState.QUEUED: 1, JobState.RUNNING: 1}
            assert overview.oldest_job is not None
            assert (overview.busy_slots, overview.wait.count) == (1, 1)
            assert len(overview.rates) == 2
            await client.submit("test", queue="mail")
            while overview.states[JobState.QUEUED] < 2:
                overview = await anext(overviews)


async def test_synchronous_client_reads_the_overview(target: str, gateway: Gateway) -> None:
    def read() -> tuple[int, int]:
        with SyncClient(target) as client:
            overview = next(client.watch_overview())
            return overview.slots, len(list(client.workers())) + len(list(client.queues()))

    assert await asyncio.to_thread(read) == (0, 0)


async def test_commands_show_workers_and_queues(
    headrace: Headrace, target: str, database: Database
) -> None:
    assert (await headrace("workers")).out == "no workers\n"
    assert (await headrace("queues")).out == "no queues\n"
    async with Client(target) as client:
        job_id = await run_one_of_two(client, database)
    shown = (await headrace("workers")).out
    assert "fake" in shown
    assert "live" in shown
    [worker] = json.loads((await headrace("workers", "-o", "json")).out)
    assert [job["job_id"] for job in worker["running_jobs"]] == [job_id]
    shown = (await headrace("queues")).out.splitlines()
    assert shown[0].split() == [
        *("QUEUE", "QUEUED", "RUNNING", "OLDEST", "QUEUED", "WORKERS", "SLOTS")
    ]
    assert shown[1].split()[0] == "mail"


class Terminal:
    """A terminal with 120 columns, in which a command runs."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        self._seen = b""

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    async def read_until(self, text: bytes) -> None:
        """Read until the command has written `text` after the texts of earlier calls."""
        async with asyncio.timeout(TIMEOUT):
            while text not in self._seen:
                self._seen += await asyncio.to_thread(os.read, self._ours, 65536)
        self._seen = self._seen.partition(text)[2]

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.theirs)


async def test_top_shows_changes_and_obeys_keys(
    target: str, database: Database, tmp_path: Path
) -> None:
    terminal = Terminal()
    async with Client(target) as client:
        job_id = await run_one_of_two(client, database)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headrace", "top"),
            env={
                "PATH": os.environ["PATH"],
                "TERM": "xterm",
                "LC_ALL": "C.UTF-8",
                "XDG_CONFIG_HOME": str(tmp_path),
                "HEADRACE_TARGET": target,
            },
            stdin=terminal.theirs,
            stdout=terminal.theirs,
            stderr=terminal.theirs,
        )
        try:
            await terminal.read_until(b"1 of 4 slots busy")
            await terminal.read_until(job_id.encode())
            await client.submit("test", queue="other")
            await terminal.read_until(b"other")
            terminal.press(b"s")
            await terminal.read_until(b"order: queued")
            terminal.press(b"/mai")
            await terminal.read_until("filter: mai█".encode())
            terminal.press(b"\x1b")
            await terminal.read_until(b"order: queued")
            terminal.press(b"q")
            # The alternate screen ends, and the shell's screen is back.
            await terminal.read_until(b"\x1b[?1049l")
            async with asyncio.timeout(TIMEOUT):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            terminal.close()


async def test_top_without_a_terminal_is_a_usage_error(headrace: Headrace) -> None:
    ended = await headrace("top")
    assert ended.code == 2
    assert "top needs a terminal" in ended.err
