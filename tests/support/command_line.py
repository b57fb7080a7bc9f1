"""The command line `headrace` as a separate process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

from support.gateway import TIMEOUT


class CommandResult(NamedTuple):
    """The exit code and the output of a command."""

    code: int | None
    out: str
    err: str


class Headrace:
    """Runs the command line against a gateway, with a separate configuration folder."""

    def __init__(self, command: tuple[str, ...], *, target: str, config: Path) -> None:
        self._command = command
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "XDG_CONFIG_HOME": str(config),
            "HEADRACE_TARGET": target,
        }

    async def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> CommandResult:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            env=self._environment | variables,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(stdin.encode())
        return CommandResult(process.returncode, out.decode(), err.decode())
