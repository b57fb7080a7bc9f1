"""What it takes to run one process: the command, how to tell that it serves, how to end it."""

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
    """The user that a process runs as.

    Args:
        uid: its user id.
        gid: its group id.
    """

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process to run.

    Args:
        name: what it is called in messages and in the name of its log.
        command: the absolute path of the executable, and its arguments. Never a secret: everybody
            on the machine can read the arguments of a process.
        environment: the whole environment of the process.
        directory: its working directory; None for that of this process.
        probe: asks once whether the process serves, in bounded time.
        prepare: what must be done before each start; it may block for some seconds.
        start_timeout: seconds until it must serve.
        postpones: whether it may take longer than that, since it waits for servers by itself.
        stop_signal: asks it to end.
        stop_grace: seconds that it has to do so, until it is killed.
        death_signal: what the kernel sends it when the process that started it has died.
        account: who it runs as; None for the user of this process.
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
        """What to execute, from the thread that stays until the process is to end."""
        return leashed(self.command, death_signal=self.death_signal, account=self.account)

    def options(self, log: IO[bytes] | int) -> dict[str, Any]:
        """The keyword arguments for `subprocess.Popen` and its like; output goes to `log`.

        The process gets a session of its own, so that a Ctrl-C in the terminal reaches it through
        us alone, in its turn.
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
    """`command` made so that it ends with this process.

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
