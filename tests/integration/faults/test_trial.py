"""The whole fault harness: a short scenario, and a scenario interrupted by Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import psutil
import pytest

from faults.cluster import Plan
from faults.result import Result
from faults.runner import run_trial
from faults.scenario import Scenario, find_scenarios
from faults.scenarios import f09_writers_out_of_order
from faults.trial import Trial
from headrace_standalone.program import leashed_command

ROOT = Path(__file__).resolve().parents[3]


async def test_short_scenario_holds_its_invariants(tmp_path: Path):
    lines: list[str] = []
    result = await run_trial(
        f09_writers_out_of_order.SCENARIO,
        seed=1,
        short=True,
        keep=True,
        log=lines.append,
        output=tmp_path,
    )
    assert result.problems() == []
    assert result.good
    assert {"I1", "I2", "I3", "I4"} <= set(result.verdicts)
    assert result.counts.events > 200
    # `headrace verify` checked every event.
    assert result.audit is not None
    assert (result.audit.checked, result.audit.broken) == (result.counts.events, ())
    assert any("seed 1" in line for line in lines)
    files = {file.name for file in (tmp_path / "F9-seed-1").iterdir()}
    assert {"gateway-1.log", "postgres.log", "events.jsonl", "streams.jsonl"} <= files


def test_failure_makes_a_trial_unsuccessful():
    result = Result(scenario="F0", title="", seed=1, failure="TimeoutError")
    assert not result.good
    assert result.problems() == ["TimeoutError"]


async def test_cancelled_trial_raises_despite_another_error(tmp_path: Path):
    started = asyncio.Event()

    async def run(trial: Trial) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError from None

    scenario = Scenario(
        id="F0",
        title="",
        shows=(),
        run=run,
        plan=Plan(gateways=0, schedulers=0, workers=0),
    )
    trial = asyncio.create_task(
        run_trial(scenario, seed=1, short=True, keep=False, log=lambda _: None, output=tmp_path)
    )
    async with asyncio.timeout(60):
        await started.wait()
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
    assert [*tmp_path.iterdir()] == []


def test_scenarios_are_found_in_numeric_order():
    scenarios = find_scenarios()
    assert {"F7", "F9", "F10", "F11", "F17", "F20", "F21"} <= set(scenarios)
    assert list(scenarios) == sorted(scenarios, key=lambda name: int(name[1:]))


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
async def test_ctrl_c_ends_every_process(tmp_path: Path):
    process = await asyncio.create_subprocess_exec(
        *leashed_command((sys.executable, "-u", "-m", "faults", "F9"), death_signal=signal.SIGKILL),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(180):
            while b"writers," not in (line := await process.stdout.readline()):
                assert line, "the trial ended early"
        children = psutil.Process(process.pid).children(recursive=True)
        # At least PostgreSQL, Valkey and two gateways are running.
        assert len(children) >= 4
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            await process.communicate()
        assert process.returncode == 130
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=30)
        assert alive == []
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_scenario_with_missing_requirements_is_not_run(tmp_path: Path):
    scenario = Scenario(id="F0", title="", shows=(), run=None, unsupported=lambda: "no rights")  # type: ignore[arg-type]
    result = await run_trial(
        scenario, seed=1, short=True, keep=False, log=lambda _: None, output=tmp_path
    )
    assert result.not_run == "no rights"
