"""Password prompts of the command line on a real terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace import Client
from headrace_core.runtime.settings import Settings
from support.gateway import TIMEOUT

NEW_PASSWORD = "a long and quiet river"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


class Terminal:
    """A process with a terminal of its own."""

    def __init__(self, *command: str, environment: dict[str, str]) -> None:
        self._master, self._slave = pty.openpty()
        self.output = ""
        self._process = subprocess.Popen(
            ("setsid", "--ctty", "--wait", *command),
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environment,
            # `setsid --ctty` makes the terminal the controlling one, which getpass opens.
        )

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what the user types."""
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def until(self, text: str) -> None:
        """Wait until the output ends with `text`."""
        os.set_blocking(self._master, True)
        while not self.output.endswith(text):
            self.output += os.read(self._master, 1024).decode()

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._master, f"{text}\n".encode())

    def end(self) -> int:
        """Wait for the end of the process; return its exit code."""
        code = self._process.wait(TIMEOUT)
        os.set_blocking(self._master, False)
        try:
            while data := os.read(self._master, 65_536):
                self.output += data.decode()
        except BlockingIOError:
            pass
        return code

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._master, b"\x03")

    def close(self) -> None:
        """End the process and close the terminal."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def start(target: str, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Return a function that starts the command line on a terminal."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "XDG_CONFIG_HOME": str(tmp_path),
        "HEADRACE_TARGET": target,
    }
    terminals: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        command = (sys.executable, "-m", "headrace", *arguments)
        terminals.append(Terminal(*command, environment=environment))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


async def test_login_reads_the_password_without_echo(
    admin: Client, start: Callable[..., Terminal]
) -> None:
    password = (await admin.create_user("ada")).password

    def log_in() -> str:
        terminal = start("login", "ada")
        terminal.until("Password: ")
        assert not terminal.echoes
        terminal.type(password)
        assert terminal.end() == 0, terminal.output
        assert terminal.echoes
        return terminal.output

    async with asyncio.timeout(TIMEOUT):
        assert password not in await asyncio.to_thread(log_in)

    def whoami() -> str:
        terminal = start("whoami")
        assert terminal.end() == 0, terminal.output
        return terminal.output

    assert "ada" in await asyncio.to_thread(whoami)


async def test_password_change_prompts_for_both_passwords(
    admin: Client, target: str, start: Callable[..., Terminal]
) -> None:
    password = (await admin.create_user("ada")).password

    def change() -> str:
        terminal = start("login", "ada")
        terminal.until("Password: ")
        terminal.type(password)
        assert terminal.end() == 0, terminal.output
        terminal = start("password")
        terminal.until("assword: ")
        terminal.type(password)
        terminal.until("New password: ")
        assert not terminal.echoes
        terminal.type(NEW_PASSWORD)
        terminal.until("New password again: ")
        terminal.type(NEW_PASSWORD)
        assert terminal.end() == 0, terminal.output
        return terminal.output

    async with asyncio.timeout(TIMEOUT):
        output = await asyncio.to_thread(change)
    assert NEW_PASSWORD not in output
    assert password not in output
    async with Client(target) as client:
        await client.login("ada", NEW_PASSWORD)


async def test_ctrl_c_at_the_prompt_restores_the_terminal(
    admin: Client, start: Callable[..., Terminal]
) -> None:
    await admin.create_user("ada")

    def interrupt() -> Terminal:
        terminal = start("login", "ada")
        terminal.until("Password: ")
        terminal.interrupt()
        assert terminal.end() == 130, terminal.output
        return terminal

    terminal = await asyncio.to_thread(interrupt)
    assert terminal.echoes
    assert "Traceback" not in terminal.output
