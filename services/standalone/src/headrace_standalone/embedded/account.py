"""The user of a server that refuses to run as root."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Callable

from headrace_standalone.embedded import EmbeddedServerError
from headrace_standalone.program import Account

USER = "headrace"
_USERADD = "/usr/sbin/useradd"


def unprivileged_account(announce: Callable[[str], None]) -> Account | None:
    """Return the account of a server that must not run as root; None if this process is not root.

    The first call as root creates the system user.

    Args:
        announce: receives a sentence when the user has been created.

    Raises:
        EmbeddedServerError: the user cannot be created.
    """
    if os.geteuid() != 0:
        return None
    entry = _system_user(announce)
    return Account(entry.pw_uid, entry.pw_gid)


def _system_user(announce: Callable[[str], None]) -> pwd.struct_passwd:
    # Another process may be creating the same user.
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
                    "with useradd. Create the user, or run as a user other than root."
                ) from error
            time.sleep(0.1)
        else:
            announce(
                f"created the system user {USER}, because PostgreSQL does not run as root. "
                f"`userdel {USER}` removes it."
            )
