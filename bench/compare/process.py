"""A process of a contestant, and the lines of JSON that are exchanged with it."""

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
from headrace_standalone.program import leashed

# How long a process may take to end once it was told to, in seconds.
_END: Final = 10.0
_READY: Final = 60.0
# The largest answer, in bytes.
_LINE: Final = 64 * 1024 * 1024


class PeerFailedError(Exception):
    """A process of a contestant did not do what it was asked; the message says why."""


class PeerProcess:
    """A process of a contestant that runs.

    Attributes:
        pid: its process id, which is that of its group.
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
        """Runs `program role` for the length of the block.

        Args:
            role: `control`, `worker` or `server`.
            python: runs it.
            program: the contestant's peer.py.
            environment: all of its environment.
            log: takes what it prints on stderr.
            janitor: ends it if we cannot.
        """
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *leashed((str(python), str(program), role), death_signal=signal.SIGKILL),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(environment),
                cwd=program.parent,
                start_new_session=True,
                limit=_LINE,
            )
        janitor.watch(process.pid)
        try:
            yield cls(process, name=f"{program.parent.name} {role}", log=log)
        finally:
            await asyncio.shield(_end(process, janitor, ask=role != "control"))

    async def until_ready(self) -> None:
        """Waits until it serves, or takes jobs.

        Raises:
            PeerFailedError: it did not come to that in a minute.
        """
        await self._answer("start", timeout=_READY)

    async def ask(self, do: str, *, timeout: float, **fields: object) -> dict[str, Any]:  # noqa: ASYNC109
        """Has a control process do something; returns its answer.

        Args:
            do: the name of the request.
            timeout: seconds.
            fields: the request's other fields.

        Raises:
            PeerFailedError: it failed, ended or took too long.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        with suppress(ConnectionError):  # what it has said last tells more
            await self._process.stdin.drain()
        return await self._answer(do, timeout=timeout)

    async def _answer(self, do: str, *, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                answer = await self._read()
        except TimeoutError:
            raise self._failed(f"{do} took more than {timeout:.0f} s") from None
        if "error" in answer:
            raise PeerFailedError(f"{self._name}, {do}: {answer['error'].strip()}")
        return answer

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            with suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict):
                    return answer
        raise self._failed(f"it ended with exit code {await self._process.wait()}")

    def _failed(self, reason: str) -> PeerFailedError:
        with self._log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 2000))
            tail = log.read().decode(errors="replace").strip().splitlines()[-12:]
        return PeerFailedError("\n".join([f"{self._name}: {reason}", *tail]))


async def _end(process: asyncio.subprocess.Process, janitor: Janitor, *, ask: bool) -> None:
    """Asks a process to end, by a signal or by the end of its stdin, and sees to it."""
    assert process.stdin is not None
    process.stdin.close()
    if ask:
        with suppress(ProcessLookupError):
            process.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(_END):
            await process.wait()
    kill_group(process.pid)
    await process.wait()
    janitor.forget(process.pid)
