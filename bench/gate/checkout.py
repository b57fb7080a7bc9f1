"""Checkouts of commits, each with an environment of its own, and their runs of the benchmarks."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
_FOLDER: Final = ROOT / ".bench" / "commits"
# Seconds to create an environment, and to run a benchmark.
_SETUP_TIMEOUT_S: Final = 900.0
_RUN_TIMEOUT_S: Final = 900.0
_STAMP_NAME: Final = ".ready"
_LAST_LINES: Final = 5


class GateFailedError(Exception):
    """A commit could not be built or measured; the message contains the reason."""


def resolve(commit: str) -> str:
    """Return the id of a commit, such as that of `HEAD~3` or a branch.

    Raises:
        GateFailedError: there is no such commit.
    """
    return _run(("git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"), ROOT).strip()


def checkout(commit: str) -> Path:
    """Return a folder with a commit and its environment; a second call reuses it.

    Args:
        commit: the id of the commit.

    Raises:
        GateFailedError: the environment could not be created.
    """
    folder = _FOLDER / commit[:12]
    stamp = folder / _STAMP_NAME
    if stamp.exists():
        return folder
    if not folder.exists():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        _run(("git", "clone", "--quiet", "--shared", str(ROOT), str(folder)), ROOT)
    _run(("git", "checkout", "--quiet", "--detach", commit), folder)
    _run(("make", "setup"), folder, timeout=_SETUP_TIMEOUT_S)
    stamp.touch()
    return folder


def measure(folder: Path, program: str, arguments: Sequence[str]) -> Any:
    """Run a benchmark of a checkout, and return its JSON report.

    Args:
        folder: the checkout.
        program: the benchmark, such as `bench/compare`.
        arguments: its arguments.

    Raises:
        GateFailedError: the benchmark failed.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-gate-") as temporary:
        report = Path(temporary) / "report.json"
        _run(
            (str(folder / ".venv/bin/python"), program, *arguments, "--json", str(report)),
            folder,
            timeout=_RUN_TIMEOUT_S,
        )
        return json.loads(report.read_text())


def compare_values(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of a `bench/compare` report: rates, latencies, and costs per job."""
    values: dict[str, float] = {}
    for one in report["measurements"]:
        name = f"{one['figure']}, {one['case']}"
        if "jobs_per_s" in one["values"]:
            values[f"{name}, jobs/s"] = one["values"]["jobs_per_s"]
        for percentile in ("p50", "p99"):
            if f"{percentile}_ms" in one["values"]:
                values[f"{name}, {percentile}, ms"] = one["values"][f"{percentile}_ms"]
        for key, title in (("wake_ups", "wake-ups"), ("wal_bytes", "WAL bytes")):
            if f"{key}_per_job" in one["values"]:
                values[f"{name}, {title} per job"] = one["values"][f"{key}_per_job"]
        if one["cpu"]:
            values[f"{name}, CPU per job, µs"] = sum(one["cpu"].values())
    return values


def stream_values(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of a `bench/streams` report: latencies and throughput."""
    values: dict[str, float] = {}
    for one in report["latency"]:
        name = f"streams, {one['streams']} open and {one['idle']} idle"
        for percentile in ("p50", "p99"):
            values[f"{name}, {percentile}, ms"] = one["whole"][percentile]
    for one in report["throughput"]:
        values["streams, live, events/s"] = one["live"]
        values["streams, catch-up, events/s"] = one["catch_up"]
    return values


def _run(command: Sequence[str], folder: Path, *, timeout: float = 60.0) -> str:
    """Run a command in a folder, and return its output."""
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise GateFailedError(f"{command[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise GateFailedError(f"{' '.join(command)} took more than {timeout:g} s") from None
    if result.returncode:
        last = result.stdout.strip().splitlines()[-_LAST_LINES:]
        raise GateFailedError("\n".join((f"{' '.join(command)} failed:", *last)))
    return result.stdout
