"""Runs a command that dies with its parent, as another user if asked to.

    python -I -S leash.py SIGNAL PARENT UID GID CAPABILITY COMMAND...

The command replaces this process and so keeps its process id. SIGNAL is what the kernel sends it
when PARENT (a process id) is gone, on Linux; elsewhere the command outlives a parent that was
killed. UID and GID are `-` to stay who one is. CAPABILITY is `-`, or the number of the one Linux
capability that is kept across the change of user.

This is a program of its own and no `preexec_fn`, since Python code between fork and exec can
deadlock in a process that has threads. It comes after the change of user, which clears the signal.
The standard library is all that it imports, so that it starts in some milliseconds.
"""

import ctypes
import os
import sys

# <linux/prctl.h> and <linux/capability.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def main(arguments: list[str]) -> None:
    death_signal, parent, uid, gid, capability, *command = arguments
    linux = sys.platform == "linux"
    libc = ctypes.CDLL(None, use_errno=True)
    if uid != "-":
        if capability != "-":
            _check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
        if capability != "-":
            _keep(libc, int(capability))
    if linux:
        _check(libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0))
    if os.getppid() != int(parent):  # it died before the kernel knew that we care
        sys.exit(1)
    try:
        os.execv(command[0], command)  # noqa: S606 - the whole purpose
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


def _keep(libc: ctypes.CDLL, capability: int) -> None:
    """Keeps this one capability, for the command as well, and drops all others."""
    header = _Header(_CAPABILITY_VERSION_3, 0)
    data = (_Data * 2)()
    bit = 1 << capability % 32
    data[capability // 32] = _Data(bit, bit, bit)
    _check(libc.capset(ctypes.byref(header), data))
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
