"""Set up the virtual environment of this checkout; `make setup` runs it.

    python tools/set_up.py VENV PACKAGE...

Only one process sets up an environment at a time; others wait, and then find it up to date. An
environment whose set-up was interrupted is recreated. The caches of pip and uv are optional, so the
home folder may be read-only.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

STAMP = ".headrace-is-set-up"
_UV_PINS = Path("requirements/uv.txt")
_PINS = Path("requirements/dev.txt")


def set_up(venv: Path, packages: list[Path]) -> None:
    """Bring `venv` up to date, unless it already is.

    Args:
        venv: the environment. A file beside it, `VENV.lock`, locks out other processes.
        packages: the packages of this repository to install in editable mode.

    Raises:
        subprocess.CalledProcessError: a step failed; its output contains the reason.
    """
    with _locked(venv.with_name(f"{venv.name}.lock"), venv) as unfinished:
        if not _is_outdated(venv, packages):
            return
        print(f"Setting up {venv} …", flush=True)
        clear = ["--clear"] if unfinished.read() else []
        unfinished.write("unfinished\n")
        unfinished.flush()
        _install(venv, packages, clear)
        unfinished.truncate(0)
        (venv / STAMP).touch()


@contextmanager
def _locked(path: Path, venv: Path) -> Iterator[IO[str]]:
    with path.open("a+") as file:
        file.seek(0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another process is setting up {venv}; waiting …", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _is_outdated(venv: Path, packages: list[Path]) -> bool:
    try:
        set_up_time = (venv / STAMP).stat().st_mtime_ns
    except FileNotFoundError:
        return True
    inputs = [_UV_PINS, _PINS, *(package / "pyproject.toml" for package in packages)]
    return any(file.stat().st_mtime_ns > set_up_time for file in inputs)


def _install(venv: Path, packages: list[Path], clear: list[str]) -> None:
    python, uv = str(venv / "bin" / "python"), str(venv / "bin" / "uv")
    _run(sys.executable, "-m", "venv", *clear, str(venv))
    _run(
        *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--require-hashes", "--requirement", str(_UV_PINS)),
    )
    if not _is_writable(_output(uv, "cache", "dir")):
        os.environ["UV_NO_CACHE"] = "1"
    install = (uv, "pip", "install", "--quiet", "--python", python)
    _run(*install, "--require-hashes", "--requirements", str(_PINS))
    editables = [argument for package in packages for argument in ("--editable", str(package))]
    _run(*install, "--no-deps", "--no-build-isolation", *editables)


def _is_writable(folder: str) -> bool:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    try:
        set_up(Path(sys.argv[1]), [Path(package) for package in sys.argv[2:]])
    except subprocess.CalledProcessError as error:
        sys.exit(f"make: setting up failed: {' '.join(error.cmd)}")
    except KeyboardInterrupt:
        sys.exit(130)
