"""The command line on a real terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.gateway import TIMEOUT


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
        self._read_until(lambda: self.output.endswith(text))

    def until_shown(self, text: str) -> None:
        """Wait until the output contains `text`."""
        self._read_until(lambda: text in self.output)

    def _read_until(self, condition: Callable[[], bool]) -> None:
        os.set_blocking(self._master, True)
        while not condition():
            self.output += os.read(self._master, 1024).decode(errors="replace")

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._master, f"{text}\n".encode())

    def end(self) -> int:
        """Wait for the end of the process; return its exit code."""
        code = self._process.wait(TIMEOUT)
        os.set_blocking(self._master, False)
        try:
            while data := os.read(self._master, 65_536):
                self.output += data.decode(errors="replace")
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


StartTerminal = Callable[..., Terminal]


@contextmanager
def headrace_terminals(
    target: str, config: Path, *, terminal_type: str = "dumb"
) -> Iterator[StartTerminal]:
    """Yield a function that starts the command line on a terminal; close the terminals at the end.

    Args:
        target: the address of the gateway.
        config: the folder of the command line's settings.
        terminal_type: the value of TERM.
    """
    environment = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "TERM": terminal_type,
        "XDG_CONFIG_HOME": str(config),
        "HEADRACE_TARGET": target,
    }
    terminals: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        command = (sys.executable, "-m", "headrace", *arguments)
        terminals.append(Terminal(*command, environment=environment))
        return terminals[-1]

    try:
        yield start
    finally:
        for terminal in terminals:
            terminal.close()
