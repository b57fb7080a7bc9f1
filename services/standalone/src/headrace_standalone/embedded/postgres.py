"""An embedded PostgreSQL: a private server with its data in the data folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import asyncpg
import psutil

from headrace_standalone.embedded import EmbeddedServerError
from headrace_standalone.embedded.account import unprivileged_account
from headrace_standalone.embedded.binaries import binaries
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.port import free_port
from headrace_standalone.program import Program, leashed_command

_ROLE = "headrace"
_DATABASE = "headrace"
_PROBE_TIMEOUT = 5.0
_INITDB_TIMEOUT = 120.0
# Time for the last checkpoint of a server that lost its supervisor, in seconds.
_LEFTOVER_TIMEOUT = 30.0


class EmbeddedPostgres:
    """A PostgreSQL server on 127.0.0.1.

    Args:
        folder: the locked data folder, which stores the data and the password.
        port: the port; None for a free port.
        ephemeral: whether the data is deleted at the end; if so, commits do not wait for the disk.
        announce: receives a sentence about each change outside of `folder`.

    Attributes:
        url: the URL of the database, with the password.

    Raises:
        EmbeddedServerError: this process is root, and the server cannot run as another user.
    """

    def __init__(
        self,
        *,
        folder: DataFolder,
        port: int | None = None,
        ephemeral: bool = False,
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._data = folder.path / "postgres"
        self._port = port or free_port()
        self._ephemeral = ephemeral
        self._password = folder.secret("postgres")
        self._account = unprivileged_account(announce)
        self._binaries = binaries(self._account)
        self.url = postgres_url(password=self._password, port=self._port)

    def prepare(self) -> None:
        """Create the data if it is missing, and end a server that outlived its supervisor.

        Raises:
            EmbeddedServerError: the data cannot be created or used.
        """
        if self._data.exists():
            self._check_version()
            self._end_leftover()
        else:
            self._create()

    def program(self) -> Program:
        """Return the program of the server."""
        durability = ("fsync=off", "full_page_writes=off") if self._ephemeral else ()
        settings = (
            "listen_addresses=127.0.0.1",
            f"port={self._port}",
            "unix_socket_directories=",
            # Enough for the pools of all workers that `headrace up` can start.
            "max_connections=300",
            "timezone=UTC",
            "log_timezone=UTC",
            # The details of an error quote rows, which contain payloads.
            "log_error_verbosity=terse",
            *durability,
        )
        return Program(
            name="postgres",
            command=(
                str(self._binaries / "postgres"),
                *("-D", self._accessible_path(self._data)),
                *(argument for setting in settings for argument in ("-c", setting)),
            ),
            environment=_environment(),
            directory=self._data,
            probe=self.probe,
            prepare=self.prepare,
            start_timeout=60.0,
            # A fast shutdown, which ends sessions and writes a checkpoint.
            stop_signal=signal.SIGINT,
            stop_grace=30.0,
            death_signal=signal.SIGINT,
            account=self._account,
        )

    async def probe(self) -> bool:
        """Return whether the server responds. Create the database if it is missing."""
        try:
            connection = await asyncpg.connect(
                host="127.0.0.1",
                port=self._port,
                user=_ROLE,
                password=self._password,
                database="postgres",
                ssl=False,
                timeout=_PROBE_TIMEOUT,
                command_timeout=30.0,
            )
            try:
                exists = "SELECT 1 FROM pg_database WHERE datname = $1"
                if await connection.fetchval(exists, _DATABASE) is None:
                    await connection.execute(f"CREATE DATABASE {_DATABASE}")
            finally:
                await connection.close(timeout=_PROBE_TIMEOUT)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    def _create(self) -> None:
        # The rename publishes the complete folder.
        draft = self._data.with_name("postgres.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self._give_to_account(draft)
        with tempfile.TemporaryFile() as password:
            self._give_to_account(password)
            password.write(self._password.encode())
            password.seek(0)
            command = [
                str(self._binaries / "initdb"),
                *("-D", self._accessible_path(draft), "-U", _ROLE),
                "--auth=scram-sha-256",
                "--pwfile=/dev/stdin",
                "--encoding=UTF8",
                # Sort text in the same order on every system.
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
                "--no-instructions",
                *(["--no-sync"] if self._ephemeral else []),
            ]
            done = subprocess.run(  # noqa: S603 - our own command
                leashed_command(command, death_signal=signal.SIGKILL, account=self._account),
                check=False,
                stdin=password,
                capture_output=True,
                text=True,
                env=_environment(),
                cwd=draft,
                start_new_session=True,
                timeout=_INITDB_TIMEOUT,
            )
        if done.returncode != 0:
            raise EmbeddedServerError(f"initdb failed in {draft}: {done.stderr.strip()}")
        draft.rename(self._data)

    def _give_to_account(self, owned: Path | IO[bytes]) -> None:
        if self._account is not None:
            target = owned if isinstance(owned, Path) else owned.fileno()
            os.chown(target, self._account.uid, self._account.gid)

    def _accessible_path(self, data: Path) -> str:
        """Return a path of the working directory `data` that the server's user can open.

        That user may have no access to the parent folders. This path does not include them.
        """
        return str(data) if self._account is None else "/proc/self/cwd"

    def _check_version(self) -> None:
        program_version = subprocess.run(  # noqa: S603 - our own command
            [self._binaries / "postgres", "--version"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT,
        ).stdout.split()[-1]
        data_version = (self._data / "PG_VERSION").read_text().strip()
        if program_version.split(".")[0] != data_version:
            raise EmbeddedServerError(
                f"{self._data} belongs to PostgreSQL {data_version}, but this is PostgreSQL "
                f"{program_version}. Choose another folder with --data."
            )

    def _end_leftover(self) -> None:
        """End a server of this folder that has outlived its supervisor, and remove its pid file.

        The pid file of an ended server is removed too: if another process has the same process id
        now, PostgreSQL refuses to start. The folder is locked, so no other server can start.
        """
        pid_file = self._data / "postmaster.pid"
        try:
            lines = pid_file.read_text().splitlines()
            server = psutil.Process(int(lines[0]))
            if self._is_leftover(server, lines):
                server.send_signal(signal.SIGINT)
                server.wait(_LEFTOVER_TIMEOUT)
        except (
            FileNotFoundError,
            IndexError,
            ValueError,
            psutil.NoSuchProcess,
            psutil.AccessDenied,
        ):
            pass
        except psutil.TimeoutExpired:
            raise EmbeddedServerError(
                f"The PostgreSQL server with the process id {server.pid} is still running in "
                f"{self._data}. Stop it, or choose another folder with --data."
            ) from None
        # Without the file, a server checks its shared memory for sessions of an earlier server.
        pid_file.unlink(missing_ok=True)

    def _is_leftover(self, server: psutil.Process, lines: list[str]) -> bool:
        """Return whether the process is the server that wrote these lines of postmaster.pid."""
        try:
            return Path(server.cwd()) == self._data.resolve()
        except psutil.AccessDenied:
            # In some containers, root cannot inspect this process. The port identifies it.
            return server.name() == "postgres" and f"port={lines[3]}" in server.cmdline()


def postgres_url(*, password: str, port: int) -> str:
    """Return the URL of the database on a server."""
    return f"postgresql://{_ROLE}:{password}@127.0.0.1:{port}/{_DATABASE}"


def _environment() -> dict[str, str]:
    return {
        name: value
        for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
        if (value := os.environ.get(name)) is not None
    } | {"LC_ALL": "C"}
