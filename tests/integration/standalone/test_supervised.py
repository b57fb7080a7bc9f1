"""A program is restarted until it is stopped, and ends with all its processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from headrace_core.domain.retry import RetryPolicy
from headrace_standalone.log_file import LogFile
from headrace_standalone.program import Program, leashed
from headrace_standalone.supervised import RESTARTS, ProgramFailedError, Supervised

# A program that serves once it has written its process id to the given file.
SERVE = """
    import os, pathlib, signal, sys
    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
    signal.pause()
"""
DEADLINE = 20


class Scene:
    """A supervised program and its announcements."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "pid"
        self.log = LogFile(folder / "program.log")
        self.announced: asyncio.Queue[str] = asyncio.Queue()

    def program(self, code: str, **changes: object) -> Program:
        options: dict[str, object] = {
            "name": "program",
            "command": (sys.executable, "-c", textwrap.dedent(code), str(self.file)),
            "environment": dict(os.environ),
            "probe": self.probe,
            "start_timeout": 15.0,
        }
        return Program(**(options | changes))  # type: ignore[arg-type]

    async def probe(self) -> bool:
        return self.file.exists() and self.file.read_text() != ""

    @asynccontextmanager
    async def supervise(self, program: Program) -> AsyncIterator[Supervised]:
        supervised = Supervised(
            program,
            log=self.log,
            announce=self.announced.put_nowait,
            restarts=RetryPolicy(initial_backoff=timedelta(milliseconds=50)),
        )
        try:
            yield supervised
        finally:
            async with asyncio.timeout(DEADLINE):
                await supervised.stop()

    async def announces(self, text: str) -> str:
        async with asyncio.timeout(DEADLINE):
            while text not in (announcement := await self.announced.get()):
                pass
        return announcement


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def pid(supervised: Supervised) -> int:
    assert supervised.pid is not None
    return supervised.pid


async def test_killed_program_restarts_every_time(scene: Scene) -> None:
    async with scene.supervise(scene.program(SERVE)) as supervised:
        await supervised.start()
        seen = {pid(supervised)}
        for _ in range(3):
            scene.file.unlink()
            os.kill(pid(supervised), signal.SIGKILL)
            assert "was killed by SIGKILL" in await scene.announces("starting it again in")
            await scene.announces("program serves again")
            seen.add(pid(supervised))
        assert len(seen) == 4


def test_wait_before_a_restart_is_bounded() -> None:
    assert RESTARTS.backoff(10_000) <= timedelta(seconds=10)


async def test_program_that_exits_at_its_start_fails_with_its_log(scene: Scene) -> None:
    code = "import sys; print('first'); sys.exit('unknown setting')"
    async with scene.supervise(scene.program(code)) as supervised:
        with pytest.raises(ProgramFailedError, match="ended with exit code 1") as caught:
            await supervised.start()
    assert "unknown setting" in caught.value.tail
    assert scene.announced.empty()


async def test_program_that_does_not_serve_in_time_fails(scene: Scene) -> None:
    code = "import signal; signal.pause()"
    async with scene.supervise(scene.program(code, start_timeout=0.5)) as supervised:
        with pytest.raises(ProgramFailedError, match=r"did not serve within 0\.5 s"):
            await supervised.start()


async def test_missing_executable_fails(scene: Scene) -> None:
    program = scene.program("", command=("/no/such/executable",))
    async with scene.supervise(program) as supervised:
        with pytest.raises(ProgramFailedError, match="ended with exit code"):
            await supervised.start()
    assert "/no/such/executable" in (scene.file.parent / "program.log").read_text()


async def test_program_is_prepared_before_each_start(scene: Scene) -> None:
    program = scene.program(SERVE, prepare=lambda: scene.file.unlink(missing_ok=True))
    scene.file.write_text("from an earlier run")
    async with scene.supervise(program) as supervised:
        await supervised.start()
        first = pid(supervised)
        os.kill(first, signal.SIGKILL)
        await scene.announces("program serves again")
        assert scene.file.read_text() == str(pid(supervised))


async def test_program_ends_by_its_own_stop_signal(scene: Scene) -> None:
    code = """
        import pathlib, signal, sys
        def end(*_):
            print("good bye", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGINT, end)
        pathlib.Path(sys.argv[1]).write_text("1")
        while True: signal.pause()
    """
    program = scene.program(code, stop_signal=signal.SIGINT)
    async with scene.supervise(program) as supervised:
        await supervised.start()
    assert "good bye" in (scene.file.parent / "program.log").read_text()
    assert scene.announced.empty()


IGNORE = """
    import pathlib, signal, sys
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path(sys.argv[1]).write_text("1")
    while True: signal.pause()
"""


async def test_program_that_ignores_its_stop_is_killed(scene: Scene) -> None:
    async with scene.supervise(scene.program(IGNORE, stop_grace=0.3)) as supervised:
        await supervised.start()
        process = psutil.Process(pid(supervised))
    assert not process.is_running()
    await scene.announces("did not end within 0.3 s; killing it")


async def test_kill_shortens_the_grace(scene: Scene) -> None:
    async with scene.supervise(scene.program(IGNORE, stop_grace=600)) as supervised:
        await supervised.start()
        process = psutil.Process(pid(supervised))
        stop = asyncio.create_task(supervised.stop())
        supervised.kill()
        async with asyncio.timeout(DEADLINE):
            await stop
    assert not process.is_running()


async def test_children_of_a_killed_program_end(scene: Scene) -> None:
    code = """
        import pathlib, subprocess, sys, signal
        child = subprocess.Popen(["sleep", "600"])
        pathlib.Path(sys.argv[1]).write_text(str(child.pid))
        signal.pause()
    """
    async with scene.supervise(scene.program(code)) as supervised:
        await supervised.start()
        orphan = psutil.Process(int(scene.file.read_text()))
        os.kill(pid(supervised), signal.SIGKILL)
        await scene.announces("starting it again in")
        psutil.wait_procs([orphan], timeout=DEADLINE)
        assert not orphan.is_running()


async def test_stop_ends_the_wait_for_a_restart(scene: Scene) -> None:
    supervised = Supervised(
        scene.program(SERVE),
        log=scene.log,
        announce=scene.announced.put_nowait,
        restarts=RetryPolicy(
            initial_backoff=timedelta(hours=1), max_backoff=timedelta(hours=1), jitter=0
        ),
    )
    await supervised.start()
    os.kill(pid(supervised), signal.SIGKILL)
    await scene.announces("starting it again in 3600.0 s")
    async with asyncio.timeout(DEADLINE):
        await supervised.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_program_dies_with_its_killed_supervisor() -> None:
    code = """
        import signal, subprocess
        from headrace_standalone.program import leashed
        command = leashed(("/bin/sleep", "600"), death_signal=signal.SIGKILL)
        with subprocess.Popen(command, start_new_session=True) as child:
            print(child.pid, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
    psutil.wait_procs([child], timeout=DEADLINE)
    assert not child.is_running()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_program_without_its_supervisor_does_not_start() -> None:
    command = leashed(("/bin/echo", "started"), death_signal=signal.SIGKILL)
    # `leashed` expects this process as the parent, but the parent is the shell.
    shell = subprocess.run(
        ["/bin/sh", "-c", '"$@"; exit $?', "sh", *command],
        capture_output=True,
        check=False,
        timeout=DEADLINE,
    )
    assert (shell.returncode, shell.stdout) == (1, b"")
