"""An environment of its own for each peer: what they ask for does not go together."""

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
_TIMEOUT: Final = 600.0
_STAMP: Final = ".made-of"


class EnvironmentFailedError(Exception):
    """An environment could not be made; the message says why."""


async def environment(name: str, requirements: Path, python: str = "") -> Path:
    """The Python of an environment with what is pinned, made anew when that has changed.

    Args:
        name: the environment's.
        requirements: the pins, with hashes.
        python: which Python, as `>=3.12`, for uv to find; ours when it is empty.

    Raises:
        EnvironmentFailedError: it could not be made.
    """
    folder = FOLDER / name
    made = folder / "bin" / "python"
    if is_made(name, requirements, python):
        return made
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    await _uv("venv", "--quiet", "--python", python or sys.executable, str(folder))
    await _uv(
        *("pip", "install", "--quiet", "--python", str(made)),
        *("--require-hashes", "--requirements", str(requirements)),
    )
    (folder / _STAMP).write_text(_stamp(requirements, python))
    return made


def is_made(name: str, requirements: Path, python: str = "") -> bool:
    """Whether the environment is there, with just what is pinned."""
    made = FOLDER / name / _STAMP
    try:
        return made.exists() and made.read_text() == _stamp(requirements, python)
    except OSError:
        return False


async def version(python: Path, package: str) -> str:
    """The version of a distribution in the environment of a Python."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps(m.version(sys.argv[1])))"
    process = await asyncio.create_subprocess_exec(
        str(python), "-c", code, package, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    printed, _ = await process.communicate()
    return str(json.loads(printed)) if process.returncode == 0 else "unknown"


def _stamp(requirements: Path, python: str) -> str:
    # What is pinned, and for which Python.
    for_python = (python or sys.version).encode()
    return hashlib.sha256(requirements.read_bytes() + for_python).hexdigest()


def _search_path() -> str:
    # pyenv's own commands run no version but the chosen one, so uv finds the others only here.
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    versions = sorted(str(folder) for folder in root.glob("versions/*/bin"))
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *versions])


async def _uv(*arguments: str) -> None:
    """Runs the uv that is beside our own Python."""
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
        async with asyncio.timeout(_TIMEOUT):
            printed, _ = await process.communicate()
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            raise EnvironmentFailedError(f"uv took more than {_TIMEOUT:g} s") from None
        raise
    if process.returncode != 0:
        lines = printed.decode(errors="replace").strip().splitlines()[-4:]
        raise EnvironmentFailedError(
            "its packages could not be installed; is the package index within reach? uv says: "
            + " ".join(line.strip() for line in lines)
        )
