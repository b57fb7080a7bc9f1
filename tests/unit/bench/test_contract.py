"""Code that the contestants share: counters, load, and the control protocol."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.compare.contestant import read_contestant, read_contestants
from bench.compare.counters import Counters
from bench.compare.databases import with_database
from bench.peers import contract


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counters:
    counters = Counters(tmp_path)
    monkeypatch.setenv("BENCH_COUNTER", str(counters.prefix))
    monkeypatch.setattr(contract, "_counter", None)
    return counters


def test_counter_with_several_threads_counts_all_jobs(counters: Counters) -> None:
    assert counters.read().handled == 0
    before = time.monotonic()
    threads = [
        threading.Thread(target=lambda: [contract.count_job() for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = counters.read()
    assert counted.handled == 2000
    assert before <= counted.first <= counted.last <= time.monotonic()


async def test_counters_of_two_processes_are_added(counters: Counters) -> None:
    contract.count_job()
    code = "from bench.peers.contract import count_job; count_job(); count_job()"
    root = str(Path(contract.__file__).parents[2])
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env={**os.environ, "PYTHONPATH": root}
    )
    assert await child.wait() == 0
    assert counters.read().handled == 3


async def test_submits_in_flight_are_limited() -> None:
    seen, running, peak = [], 0, 0

    async def submit(number: int) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0)
        seen.append(number)
        running -= 1

    await contract.submit_concurrently(20, 4, submit)
    assert sorted(seen) == list(range(20))
    assert peak == 4
    blocking: list[int] = []
    contract.submit_concurrently_in_threads(20, 4, blocking.append)
    assert sorted(blocking) == list(range(20))


async def test_batches_cover_all_numbers() -> None:
    seen: list[int] = []

    async def submit(numbers: range) -> None:
        seen.extend(numbers)

    await contract.submit_in_batches(25, 10, submit, at_once=2)
    assert sorted(seen) == list(range(25))


async def test_open_loop_with_a_slow_job_keeps_its_schedule() -> None:
    others = asyncio.Event()
    ended = []

    async def submit(number: int) -> None:
        if number == 0:
            await others.wait()
        ended.append(number)
        if len(ended) == 9:
            others.set()

    latencies = await contract.open_loop(1000, 0.01, submit)
    assert ended[-1] == 0
    assert len(latencies) == 10
    # The slow job waits for all later jobs, so its latency includes their scheduled times.
    assert latencies[0] > 8000


async def test_control_process_serves_requests_and_reports_errors(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def add(one: int, other: int) -> dict[str, int]:
        return {"sum": one + other}

    def fail() -> None:
        raise RuntimeError("no")

    lines = [{"do": "add", "one": 1, "other": 2}, {"do": "fail"}, {"do": "unknown"}]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{json.dumps(x)}\n" for x in lines)))
    await contract.serving({"add": add, "fail": fail})
    first, second, third = (json.loads(x) for x in capfd.readouterr().out.splitlines() if x)
    assert first == {"sum": 3}
    assert "RuntimeError: no" in second["error"]
    assert "KeyError" in third["error"]


def test_peer_toml_of_each_contestant_is_complete() -> None:
    contestants = read_contestants()
    assert contestants[0].is_headrace
    for one in contestants:
        assert (one.folder / "peer.py").exists()
        assert one.is_headrace or "--hash=sha256:" in one.requirements.read_text()
        assert set(one.figures) <= set("ABCDEF")
        assert set(one.servers) <= {"postgresql", "valkey"}


def test_incomplete_peer_toml_is_named_in_the_error(tmp_path: Path) -> None:
    file = tmp_path / "peer.toml"
    file.write_text('title = "X"\nfigures = []\nservers = []\n[keeps]\nrow = "no"\n')
    with pytest.raises(ValueError, match=r"peer\.toml"):
        read_contestant(file)


def test_database_url_with_another_name_keeps_the_server() -> None:
    assert (
        with_database("postgresql://a:b@h:1/x?sslmode=off", "y")
        == "postgresql://a:b@h:1/y?sslmode=off"
    )
