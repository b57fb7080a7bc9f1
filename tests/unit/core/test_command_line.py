"""The options of `python -m headrace_…`."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from headrace_core.runtime.variables import known_variables

MODULES = ("core", "gateway", "health", "scheduler", "worker")


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"headrace_{module}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("module", MODULES)
def test_help_explains_settings_and_starts_nothing(module: str) -> None:
    done = run(module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python -m headrace_{module}" in done.stdout.partition("examples:")[2]
    named = set(re.findall(r"HEADRACE_[A-Z_]+", done.stdout))
    assert named <= known_variables()
    assert bool(named) == (module != "health")


@pytest.mark.parametrize("module", MODULES)
def test_unknown_argument_is_an_error(module: str) -> None:
    done = run(module, "bogus")
    assert done.returncode == 2
    assert "bogus" in done.stderr
    assert done.stdout == ""


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
