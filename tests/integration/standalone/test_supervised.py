"""A supervised program restarts until it is stopped, and then ends with all its processes."""

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
from headrace_standalone.program import Program, leashed_command
from headrace_standalone.supervised import RESTARTS, ProgramFailedError, SupervisedProgram

# A program that counts as serving once it has written its process id to a file.
SERVING_PROGRAM = """
    import os, pathlib, signal, sys
    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
    signal.pause()
"""
DEADLINE_S = 20


class Stage:
    """The files of a supervised program, and the announcements about it."""

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
    async def supervise(self, program: Program) -> AsyncIterator[SupervisedProgram]:
        supervised = SupervisedProgram(
            program,
            log=self.log,
            announce=self.announced.put_nowait,
            restarts=RetryPolicy(initial_backoff=timedelta(milliseconds=50)),
        )
        try:
            yield supervised
        finally:
            async with asyncio.timeout(DEADLINE_S):
                await supervised.stop()

    async def until_announced(self, text: str) -> str:
        async with asyncio.timeout(DEADLINE_S):
            while text not in (announcement := await self.announced.get()):
                pass
        return announcement


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def pid(supervised: SupervisedProgram) -> int:
    assert supervised.pid is not None
    return supervised.pid


async def test_killed_program_restarts_every_time(stage: Stage) -> None:
    async with stage.supervise(stage.program(SERVING_PROGRAM)) as supervised:
        await supervised.start()
        seen = {pid(supervised)}
        for _ in range(3):
            stage.file.unlink()
            os.kill(pid(supervised), signal.SIGKILL)
            assert "was killed by SIGKILL" in await stage.until_announced("starting it again in")
            await stage.until_announced("program serves again")
            seen.add(pid(supervised))
        assert len(seen) == 4


def test_wait_before_a_restart_is_bounded() -> None:
    assert RESTARTS.backoff(10_000) <= timedelta(seconds=10)


async def test_program_that_exits_at_its_start_fails_with_the_log(stage: Stage) -> None:
    code = "import sys; print('first'); sys.exit('unknown setting')"
    async with stage.supervise(stage.program(code)) as supervised:
        with pytest.raises(ProgramFailedError, match="ended with exit code 1") as excinfo:
            await supervised.start()
    assert "unknown setting" in excinfo.value.tail
    assert stage.announced.empty()


async def test_program_that_does_not_serve_in_time_fails(stage: Stage) -> None:
    code = "import signal; signal.pause()"
    async with stage.supervise(stage.program(code, start_timeout=0.5)) as supervised:
        with pytest.raises(ProgramFailedError, match=r"did not serve within 0\.5 s"):
            await supervised.start()


async def test_missing_executable_fails(stage: Stage) -> None:
    program = stage.program("", command=("/no/such/executable",))
    async with stage.supervise(program) as supervised:
        with pytest.raises(ProgramFailedError, match="ended with exit code"):
            await supervised.start()
    assert "/no/such/executable" in (stage.file.parent / "program.log").read_text()


async def test_program_is_prepared_before_each_start(stage: Stage) -> None:
    program = stage.program(SERVING_PROGRAM, prepare=lambda: stage.file.unlink(missing_ok=True))
    stage.file.write_text("from an earlier run")
    async with stage.supervise(program) as supervised:
        await supervised.start()
        first = pid(supervised)
        os.kill(first, signal.SIGKILL)
        await stage.until_announced("program serves again")
        assert stage.file.read_text() == str(pid(supervised))


async def test_program_is_stopped_with_its_stop_signal(stage: Stage) -> None:
    code = """
        import pathlib, signal, sys
        def end(*_):
            print("good bye", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGINT, end)
        pathlib.Path(sys.argv[1]).write_text("1")
        while True: signal.pause()
    """
    program = stage.program(code, stop_signal=signal.SIGINT)
    async with stage.supervise(program) as supervised:
        await supervised.start()
    assert "good bye" in (stage.file.parent / "program.log").read_text()
    assert stage.announced.empty()


SIGTERM_IGNORING_PROGRAM = """
    import pathlib, signal, sys
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path(sys.argv[1]).write_text("1")
    while True: signal.pause()
"""


async def test_program_that_ignores_its_stop_signal_is_killed(stage: Stage) -> None:
    async with stage.supervise(
        stage.program(SIGTERM_IGNORING_PROGRAM, stop_grace=0.3)
    ) as supervised:
        await supervised.start()
        process = psutil.Process(pid(supervised))
    assert not process.is_running()
    await stage.until_announced("did not end within 0.3 s; killing it")


async def test_kill_shortens_the_grace_period(stage: Stage) -> None:
    async with stage.supervise(
        stage.program(SIGTERM_IGNORING_PROGRAM, stop_grace=600)
    ) as supervised:
        await supervised.start()
        process = psutil.Process(pid(supervised))
        stop = asyncio.create_task(supervised.stop())
        supervised.kill()
        async with asyncio.timeout(DEADLINE_S):
            await stop
    assert not process.is_running()


async def test_children_of_a_killed_program_end(stage: Stage) -> None:
    code = """
        import pathlib, subprocess, sys, signal
        child = subprocess.Popen(["sleep", "600"])
        pathlib.Path(sys.argv[1]).write_text(str(child.pid))
        signal.pause()
    """
    async with stage.supervise(stage.program(code)) as supervised:
        await supervised.start()
        orphan = psutil.Process(int(stage.file.read_text()))
        os.kill(pid(supervised), signal.SIGKILL)
        await stage.until_announced("starting it again in")
        psutil.wait_procs([orphan], timeout=DEADLINE_S)
        assert not orphan.is_running()


async def test_stop_ends_the_wait_before_a_restart(stage: Stage) -> None:
    supervised = SupervisedProgram(
        stage.program(SERVING_PROGRAM),
        log=stage.log,
        announce=stage.announced.put_nowait,
        restarts=RetryPolicy(
            initial_backoff=timedelta(hours=1), max_backoff=timedelta(hours=1), jitter=0
        ),
    )
    await supervised.start()
    os.kill(pid(supervised), signal.SIGKILL)
    await stage.until_announced("starting it again in 3600.0 s")
    async with asyncio.timeout(DEADLINE_S):
        await supervised.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_program_ends_with_its_killed_supervisor() -> None:
    code = """
        import signal, subprocess
        from headrace_standalone.program import leashed_command
        command = leashed_command(("/bin/sleep", "600"), death_signal=signal.SIGKILL)
        with subprocess.Popen(command, start_new_session=True) as child:
            print(child.pid, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
    psutil.wait_procs([child], timeout=DEADLINE_S)
    assert not child.is_running()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_program_does_not_start_without_its_supervisor() -> None:
    command = leashed_command(("/bin/echo", "started"), death_signal=signal.SIGKILL)
    # `leashed_command` expects this process as the parent, but the actual parent is the shell.
    shell = subprocess.run(
        ["/bin/sh", "-c", '"$@"; exit $?', "sh", *command],
        capture_output=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert (shell.returncode, shell.stdout) == (1, b"")
