"""A program to run: its command, its probe, and its stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from headrace_standalone import leash


@dataclass(frozen=True, slots=True)
class Account:
    """The user of a process.

    Args:
        uid: the user id.
        gid: the group id.
    """

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A process to run.

    Args:
        name: the name in messages and of the log.
        command: the absolute path of the executable, and its arguments. They must not contain
            secrets, because all users of the machine can read them.
        environment: the whole environment of the process.
        directory: the working directory; None for the working directory of this process.
        probe: returns whether the process serves, in bounded time.
        prepare: called before each start; can block for a few seconds.
        start_timeout: seconds after the start within which the process must serve.
        postpones: whether the start may take longer, because the process waits for servers.
        stop_signal: the signal that stops the process.
        stop_grace: seconds from the stop signal until the process is killed.
        death_signal: the signal that the kernel sends to the process when its parent has died.
        account: the user that runs the process; None for the user of this process.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    probe: Callable[[], Awaitable[bool]]
    directory: Path | None = None
    prepare: Callable[[], None] | None = None
    start_timeout: float = 30.0
    postpones: bool = False
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    account: Account | None = None

    def arguments(self) -> list[str]:
        """Return the command. Run it from a thread that outlives the process."""
        return leashed_command(self.command, death_signal=self.death_signal, account=self.account)

    def options(self, log: IO[bytes] | int) -> dict[str, Any]:
        """Return the keyword arguments for `subprocess.Popen`, with `log` as the output.

        The process gets a new session, so Ctrl-C in the terminal does not signal it. `headrace up`
        stops its programs in order instead.
        """
        return {
            "stdin": subprocess.DEVNULL,
            "stdout": log,
            "stderr": subprocess.STDOUT,
            "env": dict(self.environment),
            "cwd": self.directory,
            "start_new_session": True,
        }


def leashed_command(
    command: Sequence[str], *, death_signal: signal.Signals, account: Account | None = None
) -> list[str]:
    """Return a command that ends with this process.

    The kernel watches the thread that starts the command, not the whole process.
    """
    uid = gid = "-"
    if account is not None:
        uid, gid = str(account.uid), str(account.gid)
    shim = str(Path(leash.__file__).resolve())
    return [
        *(sys.executable, "-I", "-S", shim),
        *(str(int(death_signal)), str(os.getpid()), uid, gid),
        *command,
    ]
