"""`make setup`: one process at a time, and repair after an interruption."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tools import set_up

ROOT = Path(__file__).parents[3]

# Prints each step, and waits for a line before it finishes.
PROGRAM = """
import sys
from pathlib import Path
from tools import set_up

def install(venv, packages, clear):
    venv.mkdir(exist_ok=True)
    print("installing", *clear, flush=True)
    if sys.stdin.readline() != "continue\\n":
        sys.exit("interrupted")

set_up._install = install
set_up.set_up(Path(sys.argv[1]), [])
print("done", flush=True)
"""


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pins of a checkout; it is the working directory."""
    (tmp_path / "requirements").mkdir()
    for name in ("uv.txt", "dev.txt"):
        (tmp_path / "requirements" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, ".venv"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_second_set_up_waits_and_installs_nothing() -> None:
    with start() as first, start() as second:
        # One of the two has the lock; only the other one reports that it waits.
        lines = {process: process.stdout.readline() for process in (first, second)}
        waiting = next(process for process, line in lines.items() if "Another" in line)
        working = first if waiting is second else second
        assert working.stdout.readline() == "installing\n"
        out, _ = working.communicate("continue\n", timeout=60)
        assert out == "done\n"
        out, _ = waiting.communicate(timeout=60)
        assert out == "done\n"
    assert (first.returncode, second.returncode) == (0, 0)


def test_interrupted_set_up_is_repeated() -> None:
    with start() as first:
        assert "installing\n" in [first.stdout.readline(), first.stdout.readline()]
        first.kill()
    with start() as second:
        out, _ = second.communicate("continue\n", timeout=60)
    assert out.splitlines()[1:] == ["installing --clear", "done"]
    # The environment is now complete, so changed pins only update it.
    os.utime("requirements/dev.txt", (2**31, 2**31))
    with start() as third:
        out, _ = third.communicate("continue\n", timeout=60)
    assert out.splitlines()[1:] == ["installing", "done"]


def test_cache_folder_that_cannot_be_written_is_recognized(tmp_path: Path) -> None:
    assert set_up._is_writable(str(tmp_path / "home" / ".cache" / "uv"))
    assert not set_up._is_writable("/dev/null/.cache/uv")
    closed = tmp_path / "closed"
    closed.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    assert set_up._is_writable(str(closed)) == (os.geteuid() == 0)
