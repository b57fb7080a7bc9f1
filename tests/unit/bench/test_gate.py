"""The comparison of two commits: its ratios, their intervals, and its exit."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from bench.gate import command
from bench.gate.checkout import GateFailedError, compare_values, resolve, stream_values
from bench.gate.command import main, run_rounds, table
from bench.gate.ratios import Values, ratios

RATE, WAIT = "B, single, jobs/s", "C, 50/s, p99, ms"
BASE, NEW = Path("base"), Path("new")


def noisy_rounds(factor: float) -> list[tuple[Values, Values]]:
    """Return rounds in which this commit is `factor` times as fast as the base."""
    rng = random.Random(7)

    def noisy(value: float) -> float:
        return value * rng.uniform(0.98, 1.02)

    rounds = []
    for _ in range(5):
        # A slow minute of the machine affects both commits.
        speed = rng.uniform(0.5, 1.0)
        base = {RATE: noisy(1000 * speed), WAIT: noisy(10 / speed)}
        new = {RATE: noisy(1000 * speed * factor), WAIT: noisy(10 / speed / factor)}
        rounds.append((base, new))
    return rounds


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.5])
def test_interval_contains_the_true_ratio(factor: float) -> None:
    for ratio in ratios(noisy_rounds(factor)):
        assert ratio.low <= ratio.ratio <= ratio.high
        assert ratio.low * 0.99 <= factor <= ratio.high * 1.01


@pytest.mark.parametrize(("factor", "loss"), [(0.85, True), (0.99, False), (1.3, False)])
def test_only_a_certain_loss_counts(factor: float, loss: bool) -> None:
    assert [ratio.is_loss(0.05) for ratio in ratios(noisy_rounds(factor))] == [loss, loss]


def test_uncertain_loss_does_not_count() -> None:
    rounds: list[tuple[Values, Values]] = [
        ({RATE: 100.0}, {RATE: new}) for new in (60.0, 130.0, 70.0)
    ]
    [ratio] = ratios(rounds)
    assert ratio.ratio < 0.95
    assert not ratio.is_loss(0.05)


def test_interval_is_that_of_student() -> None:
    """Three ratios whose logarithms are -0.1, 0 and 0.1 have the margin 4.303 × 0.1 / √3."""
    rounds: list[tuple[Values, Values]] = [
        ({RATE: 1.0}, {RATE: math.exp(log)}) for log in (-0.1, 0.0, 0.1)
    ]
    [ratio] = ratios(rounds)
    assert ratio.ratio == pytest.approx(1.0)
    assert ratio.high == pytest.approx(math.exp(0.24843), rel=1e-4)
    assert ratio.low == pytest.approx(math.exp(-0.24843), rel=1e-4)


def test_values_of_one_commit_alone_are_omitted() -> None:
    rounds: list[tuple[Values, Values]] = [({RATE: 1.0, "old": 1.0}, {RATE: 1.0, "new": 1.0})] * 3
    assert [ratio.name for ratio in ratios(rounds)] == [RATE]


def test_commits_take_turns_and_alternate() -> None:
    measured: list[Path] = []

    def measure(folder: Path) -> Values:
        measured.append(folder)
        return {RATE: float(len(measured))}

    rounds = run_rounds(BASE, NEW, measure, count=3, announce=lambda _: None)
    assert measured == [BASE, NEW, NEW, BASE, BASE, NEW]
    assert [(base[RATE], new[RATE]) for base, new in rounds] == [(1, 2), (4, 3), (5, 6)]


def test_table_names_the_base() -> None:
    text = table(ratios(noisy_rounds(1.0)), base="0123abc").text()
    assert "0123abc" in text
    assert RATE in text


def test_reports_become_values() -> None:
    compared = {
        "measurements": [
            {
                "figure": "B",
                "case": "single",
                "values": {"jobs_per_s": 9.0},
                "cpu": {"client": 2.0, "gateway": 3.0},
            },
            {
                "figure": "C",
                "case": "50/s",
                "values": {"p50_ms": 1.0, "p99_ms": 2.0, "wake_ups_per_job": 14.0},
                "cpu": {},
            },
        ]
    }
    assert compare_values(compared) == {
        "B, single, jobs/s": 9.0,
        "B, single, CPU per job, µs": 5.0,
        "C, 50/s, p50, ms": 1.0,
        "C, 50/s, p99, ms": 2.0,
        "C, 50/s, wake-ups per job": 14.0,
    }
    streamed = {
        "latency": [{"streams": 1, "idle": 0, "whole": {"p50": 3.0, "p99": 4.0}}],
        "throughput": [{"live": 5.0, "catch_up": 6.0}],
    }
    assert stream_values(streamed) == {
        "streams, 1 open and 0 idle, p50, ms": 3.0,
        "streams, 1 open and 0 idle, p99, ms": 4.0,
        "streams, live, events/s": 5.0,
        "streams, catch-up, events/s": 6.0,
    }


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> dict[Path, float]:
    """Replace builds and measurements; the test sets the speed of each checkout."""
    speeds = {BASE: 1000.0, command.ROOT: 1000.0}
    monkeypatch.setattr(command, "resolve", lambda _: "0" * 40)
    monkeypatch.setattr(command, "checkout", lambda _: BASE)
    monkeypatch.setattr(command, "_measure", lambda folder, _: {RATE: speeds[folder]})
    return speeds


@pytest.mark.parametrize(("speed", "code"), [(900.0, 1), (970.0, 0), (2000.0, 0)])
def test_exit_code_reports_a_loss(
    gate: dict[Path, float], capsys: pytest.CaptureFixture[str], speed: float, code: int
) -> None:
    gate[command.ROOT] = speed
    assert main(["main", "--rounds", "3"]) == code
    assert ("slower beyond doubt: B, single" in capsys.readouterr().out) is bool(code)


def test_unknown_commit_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-commit", "--rounds", "3"]) == 2
    assert "no-such-commit" in capsys.readouterr().err
    with pytest.raises(GateFailedError, match="no-such-commit"):
        resolve("no-such-commit")


def test_too_few_rounds_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["main", "--rounds", "2"])
    assert "use 3 to 21 rounds" in capsys.readouterr().err
