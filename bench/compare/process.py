"""A contestant's processes, which communicate with the harness by lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bench.compare.janitor import Janitor, kill_group
from headrace_standalone.program import leashed_command

# Longest time from the stop request until a process ends, and from its start until it is ready, in
# seconds.
_STOP_TIMEOUT_S: Final = 10.0
_READY_TIMEOUT_S: Final = 60.0
# The maximum size of a response, in bytes.
_MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024


class PeerFailedError(Exception):
    """A contestant's process failed or took too long; the message contains the reason."""


class PeerProcess:
    """A contestant's running process.

    Attributes:
        pid: the process id, which is also the id of its process group.
    """

    def __init__(self, process: asyncio.subprocess.Process, *, name: str, log: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._name = name
        self._log = log

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        role: str,
        *,
        python: Path,
        program: Path,
        environment: Mapping[str, str],
        log: Path,
        janitor: Janitor,
    ) -> AsyncIterator[PeerProcess]:
        """Run `program role` for the duration of the block.

        Args:
            role: `control`, `worker` or `server`.
            python: the interpreter.
            program: the contestant's peer.py.
            environment: the complete environment of the process.
            log: the file for its stderr.
            janitor: kills the process group if the harness is killed.
        """
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *leashed_command((str(python), str(program), role), death_signal=signal.SIGKILL),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(environment),
                cwd=program.parent,
                start_new_session=True,
                limit=_MAX_RESPONSE_BYTES,
            )
        janitor.watch(process.pid)
        try:
            yield cls(process, name=f"{program.parent.name} {role}", log=log)
        finally:
            await asyncio.shield(_end(process, janitor, ask=role != "control"))

    async def wait_until_ready(self) -> None:
        """Wait until the process serves requests or executes jobs.

        Raises:
            PeerFailedError: the process failed or was not ready within a minute.
        """
        await self._read_response("start", timeout=_READY_TIMEOUT_S)

    async def ask(self, do: str, *, timeout: float, **fields: object) -> dict[str, Any]:  # noqa: ASYNC109
        """Send a request to a control process and return the response.

        Args:
            do: the name of the request.
            timeout: seconds.
            fields: the other fields of the request.

        Raises:
            PeerFailedError: the process reported an error, ended or took too long.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        with suppress(ConnectionError):  # `_read_response` reports the reason
            await self._process.stdin.drain()
        return await self._read_response(do, timeout=timeout)

    async def _read_response(self, do: str, *, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                response = await self._read()
        except TimeoutError:
            raise self._failure(f"{do} took more than {timeout:.0f} s") from None
        if "error" in response:
            raise PeerFailedError(f"{self._name}, {do}: {response['error'].strip()}")
        return response

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            with suppress(ValueError):
                response = json.loads(line)
                if isinstance(response, dict):
                    return response
        raise self._failure(f"the process ended with exit code {await self._process.wait()}")

    def _failure(self, reason: str) -> PeerFailedError:
        with self._log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 2000))
            tail = log.read().decode(errors="replace").strip().splitlines()[-12:]
        return PeerFailedError("\n".join([f"{self._name}: {reason}", *tail]))


async def _end(process: asyncio.subprocess.Process, janitor: Janitor, *, ask: bool) -> None:
    """Stop a process by closing its stdin and, with `ask`, by SIGTERM; kill the rest of its group.

    Args:
        process: the process.
        janitor: the janitor that watches the process group.
        ask: True to send SIGTERM.
    """
    assert process.stdin is not None
    process.stdin.close()
    if ask:
        with suppress(ProcessLookupError):
            process.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    kill_group(process.pid)
    await process.wait()
    janitor.forget(process.pid)
