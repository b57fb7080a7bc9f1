"""Run a command that dies with its parent, optionally as another user.

    python -I -S leash.py SIGNAL PARENT UID GID COMMAND...

The command replaces this process and so keeps its process id. On Linux the kernel sends it SIGNAL
when the process PARENT ends. On other systems the command outlives a parent that was killed.
UID and GID are `-` to keep the user.

This code is a separate program instead of a `preexec_fn`, because Python code between fork and exec
can deadlock in a process that has threads. The signal is set after the user is changed, because
changing the user clears it. The program imports only the standard library, so it starts in a few
milliseconds.
"""

import ctypes
import os
import sys

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    death_signal, parent, uid, gid, *command = arguments
    linux = sys.platform == "linux"
    libc = ctypes.CDLL(None, use_errno=True)
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if linux:
        _check(libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0))
    if os.getppid() != int(parent):  # the parent ended before the prctl
        sys.exit(1)
    try:
        os.execv(command[0], command)  # noqa: S606 - the whole purpose
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
