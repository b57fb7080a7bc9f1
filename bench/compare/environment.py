"""A virtual environment per peer, because the peers' requirements conflict."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = _ROOT / ".bench" / "envs"
_TIMEOUT_S: Final = 600.0
_STAMP_NAME: Final = ".made-of"


class EnvironmentFailedError(Exception):
    """An environment could not be created; the message contains the reason."""


async def environment(name: str, requirements: Path, python: str = "") -> Path:
    """Return the Python of an environment; create the environment again if its pins have changed.

    Args:
        name: the environment's name.
        requirements: the file with pinned packages and hashes.
        python: the version for uv to find, such as `>=3.12`; empty for the running Python.

    Raises:
        EnvironmentFailedError: the environment could not be created.
    """
    folder = FOLDER / name
    interpreter = folder / "bin" / "python"
    if is_current(name, requirements, python):
        return interpreter
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    await _run_uv("venv", "--quiet", "--python", python or sys.executable, str(folder))
    await _run_uv(
        *("pip", "install", "--quiet", "--python", str(interpreter)),
        *("--require-hashes", "--requirements", str(requirements)),
    )
    (folder / _STAMP_NAME).write_text(_stamp(requirements, python))
    return interpreter


def is_current(name: str, requirements: Path, python: str = "") -> bool:
    """Return whether the environment exists with exactly these pins and this Python."""
    stamp = FOLDER / name / _STAMP_NAME
    try:
        return stamp.exists() and stamp.read_text() == _stamp(requirements, python)
    except OSError:
        return False


async def version(python: Path, package: str) -> str:
    """Return the version of a distribution in the environment of an interpreter."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps(m.version(sys.argv[1])))"
    process = await asyncio.create_subprocess_exec(
        str(python), "-c", code, package, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    printed, _ = await process.communicate()
    return str(json.loads(printed)) if process.returncode == 0 else "unknown"


def _stamp(requirements: Path, python: str) -> str:
    python_version = (python or sys.version).encode()
    return hashlib.sha256(requirements.read_bytes() + python_version).hexdigest()


def _search_path() -> str:
    # pyenv's shims run only the selected version; uv finds the other versions in these folders.
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    versions = sorted(str(folder) for folder in root.glob("versions/*/bin"))
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *versions])


async def _run_uv(*arguments: str) -> None:
    """Run uv from the folder of the running Python."""
    command = [str(Path(sys.executable).parent / "uv"), *arguments]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": _search_path()},
        )
    except OSError as error:
        raise EnvironmentFailedError(f"{command[0]} cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            printed, _ = await process.communicate()
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            raise EnvironmentFailedError(f"uv took more than {_TIMEOUT_S:g} s") from None
        raise
    if process.returncode != 0:
        lines = printed.decode(errors="replace").strip().splitlines()[-4:]
        raise EnvironmentFailedError(
            "the packages could not be installed (is the package index reachable?); output of uv: "
            + " ".join(line.strip() for line in lines)
        )
