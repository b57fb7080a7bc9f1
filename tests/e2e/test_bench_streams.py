"""A short run of the stream benchmark."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from multiprocessing import forkserver
from pathlib import Path

import pytest

from bench.stack import Service, Stack
from bench.streams.command import main

_SHORT_RUN = (
    *("--quick", "--streams", "3", "--rate", "200", "--rounds", "2"),
    *("--seconds", "0.5", "--warm-up", "0.2", "--idle", "20", "--settle", "0.2"),
    *("--channels", "2", "--burst", "500", "--pollers", "2"),
)


@pytest.fixture
def _shared_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share one gateway among all measurements of a run.

    A full run starts a new gateway for each measurement, so that the measurements are independent.
    This test checks no rates, and a short run would mostly start processes.
    """
    start, run_with = Stack.gateway, Stack.running

    @asynccontextmanager
    async def running() -> AsyncIterator[Stack]:
        async with run_with() as stack, start(stack) as service:

            @asynccontextmanager
            async def gateway() -> AsyncIterator[Service]:
                yield service

            monkeypatch.setattr(stack, "gateway", gateway)
            yield stack

    monkeypatch.setattr(Stack, "running", running)


@pytest.fixture
def _ended_fork_server() -> Iterator[None]:
    """End the fork server after a run."""
    yield
    forkserver._forkserver._stop()


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_shared_gateway", "_ended_fork_server")
def test_short_stream_benchmark_receives_every_event_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, page = tmp_path / "streams.json", tmp_path / "streams.md"
    code = main([*_SHORT_RUN, "--json", str(document), "--markdown", str(page)])
    printed = capsys.readouterr()
    assert code == 0, printed
    assert "every stream received every event once and in order" in printed.out
    figures = json.loads(document.read_text())
    assert figures["exact"]
    assert [(load["streams"], load["idle"]) for load in figures["latency"]] == [(3, 0), (3, 20)]
    for load in figures["latency"]:
        assert load["written"] == 240
        assert len(load["rounds"]) == 2
        assert 0 < load["whole"]["p50"] <= load["whole"]["p99"] <= load["whole"]["max"]
        assert load["cpu"].keys() >= {"gateway", "postgresql", "writer", "readers"}
    assert all(memory["after_kib"] > 0 for memory in figures["memory"])
    assert figures["polling"][0]["calls"] > 0
    assert figures["throughput"][0]["live"] > 0
    assert "| open streams | p50 |" in page.read_text()
