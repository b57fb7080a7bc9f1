"""PostgreSQL, Redis and PgBouncer of the system, for features that the embedded servers lack.

The embedded servers are built without TLS. A test that needs a missing program is skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace_standalone.embedded.account import unprivileged_account
from headrace_standalone.embedded.port import free_port
from headrace_standalone.program import Account, Program, leashed_command
from support.certificates import Authority
from support.server import serving

ROLE = "headrace"
# A role that authenticates with its certificate instead of a password.
CERTIFIED_ROLE = "certified"
PASSWORD = "password"

_FOLDERS = os.pathsep.join(
    (
        *(str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
        *(os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"),
    )
)


def system_program(name: str) -> str:
    """Return the path of a program, or skip the test if it is not installed."""
    executable = shutil.which(name, path=_FOLDERS)
    if executable is None:
        pytest.skip(f"{name} is not installed")
    return executable


@contextmanager
def server_folder(account: Account | None) -> Iterator[Path]:
    """Create a folder that the account of a server can use, for the duration of the block."""
    with tempfile.TemporaryDirectory(prefix="headrace-test-") as name:
        folder = Path(name)
        if account is not None:
            os.chown(folder, account.uid, account.gid)
        yield folder


def write_private(file: Path, text: str | bytes, account: Account | None) -> Path:
    """Write a private file for the account of a server."""
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    file.chmod(0o600)
    if account is not None:
        os.chown(file, account.uid, account.gid)
    return file


@dataclass(frozen=True, slots=True)
class TlsPostgres:
    """A PostgreSQL server that accepts only TLS.

    ROLE needs its password, CERTIFIED_ROLE a client certificate of the authority.
    """

    port: int

    def url(self, options: str, *, role: str = ROLE, database: str = "postgres") -> str:
        """Return the URL of a database, with options such as `sslmode=require`."""
        password = f":{PASSWORD}" if role == ROLE else ""
        return f"postgresql://{role}{password}@localhost:{self.port}/{database}?{options}"


@contextmanager
def tls_postgres(authority: Authority) -> Iterator[TlsPostgres]:
    """Run a PostgreSQL server with TLS for the duration of the block."""
    initdb, postgres = system_program("initdb"), system_program("postgres")
    account = unprivileged_account(lambda _: None)
    with server_folder(account) as folder:
        issued = authority.server("postgres")
        ca = write_private(folder / "ca.pem", authority.pem, account)
        cert = write_private(folder / "server.pem", issued.cert.read_bytes(), account)
        key = write_private(folder / "server.key", issued.key.read_bytes(), account)
        password = write_private(folder / "password", PASSWORD, account)
        data = folder / "data"
        command = [initdb, "-D", str(data), "-U", ROLE, "--no-sync", "--encoding=UTF8"]
        subprocess.run(
            leashed_command(
                [*command, "--locale=C", "--auth=scram-sha-256", f"--pwfile={password}"],
                death_signal=signal.SIGKILL,
                account=account,
            ),
            check=True,
            capture_output=True,
            timeout=120,
            cwd=folder,
        )
        write_private(
            data / "pg_hba.conf",
            f"hostssl all {CERTIFIED_ROLE} 127.0.0.1/32 trust clientcert=verify-ca\n"
            "hostssl all all 127.0.0.1/32 scram-sha-256\n",
            account,
        )
        server = TlsPostgres(free_port())
        settings = {
            "port": server.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 200,
            "ssl": "on",
            "ssl_ca_file": ca,
            "ssl_cert_file": cert,
            "ssl_key_file": key,
        }

        async def probe() -> bool:
            url = server.url(f"sslmode=verify-full&sslrootcert={authority.file}")
            return await _responds(url, f"CREATE ROLE {CERTIFIED_ROLE} SUPERUSER LOGIN")

        program = Program(
            name="system-postgres",
            command=(
                *(postgres, "-D", str(data)),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ),
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            directory=folder,
            probe=probe,
            stop_signal=signal.SIGINT,
            account=account,
        )
        with serving(program, log=folder / "log"):
            yield server


@contextmanager
def tls_redis(authority: Authority, *options: str) -> Iterator[str]:
    """Run a Redis server that accepts only TLS with a client certificate; yield `HOST:PORT`."""
    redis = system_program("redis-server")
    issued = authority.server("redis")
    client = authority.issue("redis-probe", "probe")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="headrace-test-") as folder:
        arguments = {
            "port": 0,
            "tls-port": port,
            "bind": "127.0.0.1",
            "dir": folder,
            "save": "",
            "tls-cert-file": issued.cert,
            "tls-key-file": issued.key,
            "tls-ca-cert-file": authority.file,
            "tls-auth-clients": "yes",
        }

        async def probe() -> bool:
            url = f"rediss://localhost:{port}?ssl_ca_certs={authority.file}"
            url += f"&ssl_certfile={client.cert}&ssl_keyfile={client.key}"
            return await _redis_responds(url)

        program = Program(
            name="system-redis",
            command=(
                redis,
                *(part for name, value in arguments.items() for part in (f"--{name}", str(value))),
                *options,
            ),
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            probe=probe,
        )
        with serving(program, log=Path(folder) / "log"):
            yield f"localhost:{port}"


@contextmanager
def pgbouncer(database_url: str, *, mode: str) -> Iterator[str]:
    """Run PgBouncer in front of a database; yield the URL of the database through it.

    Args:
        database_url: a URL with a user, a password, an address and a database.
        mode: `session`, `transaction` or `statement`.
    """
    program = system_program("pgbouncer")
    account = unprivileged_account(lambda _: None)
    rest = database_url.partition("://")[2]
    login, _, place = rest.rpartition("@")
    user, _, password = login.partition(":")
    address, _, database = place.partition("/")
    host, _, server_port = address.partition(":")
    port = free_port()
    url = f"postgresql://{user}:{password}@127.0.0.1:{port}/{database.partition('?')[0]}"
    with server_folder(account) as folder:
        users = write_private(folder / "users.txt", f'"{user}" "{password}"\n', account)
        configuration = write_private(
            folder / "pgbouncer.ini",
            f"""[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = {mode}
default_pool_size = 50
""",
            account,
        )

        async def probe() -> bool:
            return await _responds(url)

        wrapped = Program(
            name="pgbouncer",
            command=(program, str(configuration)),
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            directory=folder,
            probe=probe,
            account=account,
        )
        with serving(wrapped, log=folder / "log"):
            yield url


async def _responds(url: str, *statements: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=60, statement_cache_size=0)
    except (OSError, asyncpg.PostgresError):
        return False
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close(timeout=5)
    return True


async def _redis_responds(url: str) -> bool:
    client: Redis = Redis.from_url(url, socket_timeout=60)
    try:
        await client.ping()
    except (RedisError, OSError):
        return False
    finally:
        await client.aclose()
    return True
