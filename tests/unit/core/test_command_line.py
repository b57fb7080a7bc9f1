"""The options of `python -m headrace_…`."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from headrace_core.runtime.variables import known_variables

MODULES = ("core", "gateway", "health", "scheduler", "worker")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., CommandResult]:
    """A function that runs `python -m headrace_MODULE` in this process, which has imported it."""

    def run(module: str, *arguments: str) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["", *arguments])
        # runpy warns about a module that is already imported.
        monkeypatch.delitem(sys.modules, f"headrace_{module}.__main__", raising=False)
        with pytest.raises(SystemExit) as exit_:
            runpy.run_module(f"headrace_{module}", run_name="__main__", alter_sys=True)
        out, err = capsys.readouterr()
        return CommandResult(exit_.value.code, out, err)

    return run


@pytest.mark.parametrize("module", MODULES)
def test_help_explains_settings_and_starts_nothing(
    run: Callable[..., CommandResult], module: str
) -> None:
    ended = run(module, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"python -m headrace_{module}" in ended.out.partition("examples:")[2]
    named = set(re.findall(r"HEADRACE_[A-Z_]+", ended.out))
    assert named <= known_variables()
    assert bool(named) == (module != "health")


@pytest.mark.parametrize("module", MODULES)
def test_unknown_argument_is_an_error(run: Callable[..., CommandResult], module: str) -> None:
    ended = run(module, "bogus")
    assert ended.code == 2
    assert "bogus" in ended.err
    assert ended.out == ""


@pytest.mark.parametrize("command", ["migrate", "mend"])
def test_error_of_maintenance_names_its_command(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headrace_core", command],
        env={"HEADRACE_DATABASE_URL": "postgresql://127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"headrace {command}: the database of HEADRACE_DATABASE_URL" in done.stderr
