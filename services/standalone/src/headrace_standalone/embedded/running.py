"""The servers of a running `headrace up` in another process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace_standalone.embedded.postgres import postgres_url
from headrace_standalone.embedded.valkey import valkey_url


class NoRunningServers(Exception):
    """No `headrace up` with its own database is running in this folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServers:
    """The URLs of the servers, with passwords.

    `redis_url` is None if `headrace up` runs no Redis.
    """

    database_url: str
    redis_url: str | None


def running_servers(path: Path) -> RunningServers:
    """Return the servers of a folder.

    Raises:
        NoRunningServers: no servers are running.
    """
    path = path.absolute()
    nothing = NoRunningServers(
        f"no headrace up with its own database is running in {path}. Start it, or set "
        "HEADRACE_DATABASE_URL."
    )
    try:
        # PostgreSQL wrote this file; the fourth line is the port.
        pid, _, _, port, *_ = (path / "postgres" / "postmaster.pid").read_text().splitlines()
        password = (path / "secrets" / "postgres").read_text()
    except (OSError, ValueError):
        raise nothing from None
    if not psutil.pid_exists(int(pid)):
        raise nothing
    return RunningServers(
        database_url=postgres_url(password=password, port=int(port)), redis_url=_redis_url(path)
    )


def _redis_url(path: Path) -> str | None:
    try:
        configuration = (path / "valkey" / "valkey.conf").read_text()
        password = (path / "secrets" / "valkey").read_text()
    except OSError:
        return None
    port = re.search(r"^port (\d+)$", configuration, re.MULTILINE)
    return valkey_url(password=password, port=int(port[1])) if port else None
