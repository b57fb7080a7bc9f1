"""A tiny run of the stream benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TINY = (
    *("--quick", "--streams", "3", "--rate", "200", "--rounds", "2"),
    *("--seconds", "0.5", "--warm-up", "0.2", "--idle", "20", "--settle", "0.2"),
    *("--channels", "2", "--burst", "500", "--pollers", "2"),
)


@pytest.mark.timeout(300)
def test_tiny_stream_benchmark_receives_every_event_once(tmp_path: Path) -> None:
    document, page = tmp_path / "streams.json", tmp_path / "streams.md"
    done = subprocess.run(
        [sys.executable, "bench/streams", *_TINY, "--json", document, "--markdown", page],
        cwd=_ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "every stream received every event once and in order" in done.stdout
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
