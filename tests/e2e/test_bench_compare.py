"""Tiny runs of the comparison with Headrace as the only contestant."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from support.until import until

_ROOT = Path(__file__).parents[2]
_COMMAND = (sys.executable, "bench/compare", "--quick", "--peers", "headrace")
_TINY = (
    *("--drain", "300", "--workers", "1", "--accept-seconds", "0.2", "--clients", "2"),
    *("--warm-up", "0.2", "--seconds", "0.5", "--jobs", "300", "--waiting", "0"),
    *("--finished", "300", "--queues", "0", "--delayed", "20", "--memory-jobs", "100"),
    *("--rest", "0"),
)


@pytest.mark.timeout(300)
def test_tiny_comparison_measures_and_writes_every_figure(tmp_path: Path) -> None:
    document, page = tmp_path / "compare.json", tmp_path / "compare.md"
    done = subprocess.run(
        [*_COMMAND, *_TINY, "--json", document, "--markdown", page],
        cwd=_ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    figures = json.loads(document.read_text())
    assert figures["failures"] == []
    measured = {}
    for one in figures["measurements"]:
        measured.setdefault(one["figure"], []).append(one)
    assert measured.keys() == set("ABCDEF")
    [drain] = measured["A"]
    assert drain["values"]["jobs"] == 300
    assert drain["cpu"].keys() == {
        *("client", "gateway", "scheduler", "worker", "postgresql", "valkey")
    }
    assert [one["case"] for one in measured["B"]] == ["single", "bulk", "single, several clients"]
    assert 0 < measured["C"][0]["values"]["p50_ms"] <= measured["C"][0]["values"]["max_ms"]
    assert len(measured["D"]) == 2
    assert len(measured["E"]) == 3
    assert measured["E"][-1]["values"]["jobs"] == 320
    assert measured["F"][0]["values"]["gateway_rest_mib"] > 0
    assert "| Headrace |" in page.read_text()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kill", [psutil.Process.terminate, psutil.Process.kill])
async def test_stopped_comparison_leaves_no_process(kill) -> None:
    with subprocess.Popen(
        [*_COMMAND, "--figures", "F", "--rest", "60"],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        run = psutil.Process(process.pid)
        started: set[psutil.Process] = set()

        async def all_processes_run() -> bool:
            assert process.poll() is None
            started.update(run.children(recursive=True))
            lines = set()
            for one in started:
                with suppress(psutil.NoSuchProcess):
                    lines.add(" ".join(one.cmdline()))
            return any("headrace_worker" in line for line in lines) and any(
                "peer.py control" in line for line in lines
            )

        await until(all_processes_run, within=240)
        kill(run)
    psutil.wait_procs(started, timeout=30)
    assert [one for one in started if one.is_running() and one.status() != "zombie"] == []
