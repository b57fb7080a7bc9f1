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
        uid: its user id.
        gid: its group id.
    """

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A process to run.

    Args:
        name: its name in messages, and the name of its log.
        command: the absolute path of the executable, and its arguments. They must not contain
            secrets, because all users of the machine can read them.
        environment: the whole environment of the process.
        directory: its working directory; None for that of this process.
        probe: returns whether the process serves, in bounded time.
        prepare: called before each start; may block for some seconds.
        start_timeout: seconds until it must serve.
        postpones: whether it may take longer, because it waits for servers.
        stop_signal: the signal that stops it.
        stop_grace: seconds after the stop signal until it is killed.
        death_signal: the signal that the kernel sends it when its parent has died.
        account: the user that runs it; None for the user of this process.
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
        return leashed(self.command, death_signal=self.death_signal, account=self.account)

    def options(self, log: IO[bytes] | int) -> dict[str, Any]:
        """Return the keyword arguments of `subprocess.Popen`, with the output to `log`.

        The process gets a new session, so that Ctrl-C in the terminal does not signal it. Programs
        are stopped in order instead.
        """
        return {
            "stdin": subprocess.DEVNULL,
            "stdout": log,
            "stderr": subprocess.STDOUT,
            "env": dict(self.environment),
            "cwd": self.directory,
            "start_new_session": True,
        }


def leashed(
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
