"""Who a server runs as that refuses to be root."""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
import time
from pathlib import Path

from headrace_standalone.embedded.errors import EmbeddedServerError
from headrace_standalone.program import Account

USER = "headrace"
_USERADD = "/usr/sbin/useradd"

# <linux/capability.h>: what lets a process pass folders that are closed to it. The second grants
# less, but does not help with an executable that is closed, and containers often lack it.
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


def unprivileged_account(*, data: Path, executable: Path) -> Account | None:
    """The account for a server that must not run as root; None when we are not root.

    The user is created at its first use. When it may not pass the folders above its data or its
    executable (a clone under /root, say), the server keeps the one capability to do so; the modes
    of folders that are not ours stay as they are.

    Raises:
        EmbeddedServerError: the user cannot be created, or cannot reach its files.
    """
    if os.geteuid() != 0:
        return None
    entry = _user()
    account = Account(entry.pw_uid, entry.pw_gid)
    executable = executable.resolve()
    may_execute = _allows(executable, account)
    closed = [
        folder
        for path in (data.resolve(), executable)
        for folder in path.parents
        if not _allows(folder, account)
    ]
    if may_execute and not closed:
        return account
    wanted = [_CAP_DAC_READ_SEARCH] if may_execute else []
    for capability in (*wanted, _CAP_DAC_OVERRIDE):
        if capability in _capabilities():
            return Account(entry.pw_uid, entry.pw_gid, capability)
    raise EmbeddedServerError(
        f"PostgreSQL does not run as root, and the user {USER} cannot reach "
        f"{closed[0] if closed else executable}. Choose a data folder that everybody can reach "
        "with --data, install Headrace outside of closed folders, or run as another user than root."
    )


def _user() -> pwd.struct_passwd:
    # Another process may be creating the same user just now.
    deadline = time.monotonic() + 10
    while True:
        try:
            return pwd.getpwnam(USER)
        except KeyError:
            pass
        try:
            subprocess.run(  # noqa: S603 - our own command
                [_USERADD, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER],
                check=True,
                capture_output=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError) as error:
            if time.monotonic() > deadline or isinstance(error, OSError):
                raise EmbeddedServerError(
                    f"PostgreSQL does not run as root, and the user {USER} cannot be created "
                    "with useradd. Create it, or run as another user than root."
                ) from error
            time.sleep(0.1)


def _allows(path: Path, account: Account) -> bool:
    """Whether the mode of `path` lets the account pass (a folder) or execute it (a file)."""
    status = path.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _capabilities() -> set[int]:
    """The numbers of the capabilities that this process may use; none where there are none."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return set()
    match = re.search(r"^CapPrm:\s*([0-9a-f]+)$", text, re.MULTILINE)
    mask = int(match[1], 16) if match else 0
    return {number for number in range(64) if mask >> number & 1}
