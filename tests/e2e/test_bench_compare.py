"""Short runs of the comparison benchmark, with Headrace alone."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from bench.compare import run
from bench.compare.command import main
from bench.compare.stage import Stage
from support.until import until

_ROOT = Path(__file__).parents[2]
_SHORT_RUN = (
    *("--quick", "--peers", "headrace", "--drain", "100", "--workers", "1", "--clients", "2"),
    *("--accept-seconds", "0.05", "--batch", "50", "--warm-up", "0.1", "--seconds", "0.2"),
    *("--jobs", "100", "--waiting", "0", "--finished", "100", "--queues", "0", "--delayed", "20"),
    *("--memory-jobs", "50", "--rest", "0"),
)


class SharedStage:
    """One stage and one worker for all measurements of a run.

    A full run sets up a new stage for each measurement, so that the measurements are independent.
    This test checks no rates, and a short run would mostly start processes.
    """

    def __init__(self) -> None:
        self._running = AsyncExitStack()
        self._stage: Stage | None = None
        self._has_worker = False
        self._set_up = Stage.of
        self._start_workers = Stage.workers
        self._measure = run._Comparison.measure

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let every run use this stage."""
        shared = self

        @asynccontextmanager
        async def of(*arguments, **options) -> AsyncIterator[Stage]:
            if shared._stage is None:
                set_up = shared._set_up(*arguments, **options)
                shared._stage = await shared._running.enter_async_context(set_up)
            yield shared._stage

        @asynccontextmanager
        async def workers(stage: Stage, count: int, environment=None) -> AsyncIterator[None]:
            if not shared._has_worker:
                await shared._running.enter_async_context(shared._start_workers(stage, count))
                shared._has_worker = True
            yield

        async def measure(comparison: run._Comparison, figure: str) -> None:
            try:
                await shared._measure(comparison, figure)
            finally:
                if figure == "F" or sys.exc_info()[0]:
                    await shared._running.aclose()

        monkeypatch.setattr(Stage, "of", of)
        monkeypatch.setattr(Stage, "workers", workers)
        monkeypatch.setattr(run._Comparison, "measure", measure)


@pytest.fixture
def _restored_sigterm() -> Iterator[None]:
    """Restore the signal handler that the command replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("_restored_sigterm")
def test_short_comparison_writes_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SharedStage().patch(monkeypatch)
    document, page = tmp_path / "compare.json", tmp_path / "compare.md"
    code = main([*_SHORT_RUN, "--json", str(document), "--markdown", str(page)])
    assert code == 0, capsys.readouterr()
    figures = json.loads(document.read_text())
    assert figures["failures"] == []
    measured = {}
    for one in figures["measurements"]:
        measured.setdefault(one["figure"], []).append(one)
    assert measured.keys() == set("ABCDEF")
    [drain] = measured["A"]
    assert drain["values"]["jobs"] == 100
    assert drain["cpu"].keys() == {
        *("client", "gateway", "scheduler", "worker", "postgresql", "valkey")
    }
    assert [one["case"] for one in measured["B"]] == ["single", "bulk", "single, several clients"]
    assert 0 < measured["C"][0]["values"]["p50_ms"] <= measured["C"][0]["values"]["max_ms"]
    assert len(measured["D"]) == 2
    assert len(measured["E"]) == 3
    assert measured["E"][-1]["values"]["jobs"] == 120
    assert measured["F"][0]["values"]["gateway_rest_mib"] > 0
    assert "| Headrace |" in page.read_text()


@pytest.mark.timeout(300)
async def test_killed_comparison_leaves_no_process() -> None:
    command = [sys.executable, "bench/compare", "--peers", "headrace", "--figures", "F"]
    with subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        root = psutil.Process(process.pid)
        started: set[psutil.Process] = set()

        async def has_services_and_client() -> bool:
            assert process.poll() is None
            # Each check scans all of /proc.
            await asyncio.sleep(0.25)
            started.update(root.children(recursive=True))
            lines = set()
            for one in started:
                with suppress(psutil.NoSuchProcess):
                    lines.add(" ".join(one.cmdline()))
            return all(
                any(program in line for line in lines)
                for program in ("headrace_gateway", "headrace_scheduler", "peer.py control")
            )

        await until(has_services_and_client, within=240)
        root.kill()
    psutil.wait_procs(started, timeout=30)
    assert [one for one in started if one.is_running() and one.status() != "zombie"] == []
