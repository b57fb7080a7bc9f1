"""`headrace up`: one command starts all processes, restarts them, and stops them together."""

from __future__ import annotations

import os
import re
import signal
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import IO
from urllib.request import urlopen

import asyncpg
import grpc
import grpc.aio
import httpx2
import psutil
import pytest

from headrace.v1.access_service_pb2 import ROLE_PLATFORM, WhoAmIRequest, WhoAmIResponse
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace_health.__main__ import probe
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.port import free_port
from support.access import bearer
from support.databases import Databases
from support.server import run_async

DEADLINE_S = 60
# One metric of each process except the gateway.
METRIC_BY_PROCESS = {
    "scheduler": "headrace_leading",
    "worker-1": "headrace_attempts_running",
    "web": "headrace_web_open_requests",
}
PROCESS_NAMES = {"postgres", "valkey", "gateway", "scheduler", "worker-1", "web"}


class RunningStack:
    """A running `headrace up` and its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.printed: list[str] = []
        self._lines: Queue[str | None] = Queue()
        self._reader = Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def until(self, text: str) -> str:
        """Read until a line contains `text`; return that line."""
        while (line := self._lines.get(timeout=DEADLINE_S)) is not None:
            self.printed.append(line)
            if text in line:
                return line
        raise AssertionError(f"{text!r} is not in:\n{''.join(self.printed)}")

    def finish(self) -> int:
        """Read to the end; return the exit code."""
        while (line := self._lines.get(timeout=DEADLINE_S)) is not None:
            self.printed.append(line)
        return self.process.wait(DEADLINE_S)

    def descendants(self) -> list[psutil.Process]:
        """Return all descendant processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def service(self, name: str) -> psutil.Process:
        """Return a service's process."""
        return next(one for one in self.descendants() if one.cmdline()[-1:] == [f"headrace_{name}"])


@contextmanager
def up(*arguments: str, **environment: str) -> Iterator[RunningStack]:
    with subprocess.Popen(
        [sys.executable, "-m", "headrace_standalone", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    ) as process:
        running = RunningStack(process)
        try:
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
                running.finish()


def wait_until_ended(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=DEADLINE_S)[1]


@pytest.mark.timeout(240)
def test_stack_starts_restarts_killed_processes_and_stops(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ports = ("--gateway-port", "0", "--web-port", "0", "--metrics-port", "0")
    with up("--data", str(data), *ports) as stack:
        address = re.search(r"127\.0\.0\.1:\d+", stack.until("API"))[0]
        web = stack.until("  Web ").split()[-1]
        metrics = re.search(r"http://127\.0\.0\.1:\d+/metrics", stack.until("Metrics"))[0]
        metrics_urls = [
            re.search(r"http\S+", stack.until(f"({name})"))[0] for name in METRIC_BY_PROCESS
        ]
        stack.until("Ctrl-C stops it")
        assert probe(address, service="", timeout=10) == "SERVING"
        with urlopen(f"{web}/healthz", timeout=60) as response:
            assert response.read() == b"ok\n"
        assert not {"HEADRACE_DATABASE_URL", "HEADRACE_REDIS_URL"} & set(
            stack.service("web").environ()
        )
        with urlopen(metrics, timeout=60) as response:
            assert "headrace_tail_looks_total" in response.read().decode()
        for other, metric in zip(metrics_urls, METRIC_BY_PROCESS.values(), strict=True):
            with urlopen(other, timeout=60) as response:
                assert metric in response.read().decode()
        assert stack.service("worker").environ()["HEADRACE_TARGET"] == address
        assert {file.stem for file in (data / "logs").iterdir()} == PROCESS_NAMES | {"migrate"}

        stack.service("worker").kill()
        stack.until("worker-1 was killed by SIGKILL")
        stack.until("worker-1 serves again")
        next(one for one in stack.descendants() if one.name() == "postgres").kill()
        stack.until("postgres serves again")

        descendants = stack.descendants()
        stack.process.send_signal(signal.SIGINT)
        assert stack.finish() == 0
        assert wait_until_ended(descendants)
    # Each process ended within its grace period.
    assert "killing" not in "".join(stack.printed)
    for name in PROCESS_NAMES:
        assert "Traceback" not in (data / "logs" / f"{name}.log").read_text()
    with DataFolder.hold(data):
        pass  # The folder is no longer in use.


async def identify_caller(address: str, ca: Path, key: str) -> WhoAmIResponse:
    credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    async with grpc.aio.secure_channel(address, credentials) as channel:
        response: WhoAmIResponse = await AccessServiceStub(channel).WhoAmI(
            WhoAmIRequest(), metadata=bearer(key), timeout=DEADLINE_S
        )
        return response


def name_after_login(url: str, ca: Path, key: str) -> str:
    """Log in to the dashboard with a key; return the name of the principal."""
    trust = ssl.create_default_context(cafile=str(ca))
    with httpx2.Client(base_url=url, verify=trust, trust_env=False, timeout=DEADLINE_S) as http:
        assert http.get("/").headers["location"].startswith("/login")
        response = http.post("/login", data={"api_key": key}, headers={"origin": url})
        assert response.status_code == 303, response.text
        assert list(http.cookies) == ["__Host-headrace"]
        name: str = http.get("/v1/me").json()["name"]
        return name


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.timeout(240)
def test_killed_secure_stack_starts_again_with_its_admin_key(tmp_path: Path) -> None:
    data = tmp_path / "data"
    arguments = ("--secure", "--data", str(data), "--gateway-port", "0")
    with up(*arguments, "--web-port", "0") as first:
        address = re.search(r"127\.0\.0\.1:\d+", first.until("API"))[0]
        banner = first.until("  Web ")
        assert "log in with the key below" in banner
        url = re.search(r"https://127\.0\.0\.1:\d+", banner)[0]
        ca = Path(first.until("  CA ").split()[-1])
        key = re.search(r"hr_\w+", first.until("  Key "))[0]
        first.until("Ctrl-C stops it")
        me = run_async(lambda: identify_caller(address, ca, key))
        assert (me.principal.name, me.principal.role) == ("admin", ROLE_PLATFORM)
        assert name_after_login(url, ca, key) == "admin"
        assert "payload:read" in me.principal.rights
        assert probe(address, service="", timeout=10) == "UNAVAILABLE"
        assert first.service("worker").environ()["HEADRACE_TLS_CA"] == str(ca)
        descendants = first.descendants()
        first.process.kill()
        first.finish()
        assert wait_until_ended(descendants)
    for private in (ca.with_name("ca.key"), ca.with_name("server.key")):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
    for log in (data / "logs").iterdir():
        assert key not in log.read_text()
    certificate = ca.with_name("server.pem").read_bytes()
    with up(*arguments, "--no-web") as second:
        address = re.search(r"127\.0\.0\.1:\d+", second.until("API"))[0]
        second.until("Ctrl-C stops it")
        assert run_async(lambda: identify_caller(address, ca, key)).principal.name == "admin"
        descendants = second.descendants()
        # The suspended worker cannot end, so a stop takes the whole grace period.
        second.service("worker").suspend()
        second.process.send_signal(signal.SIGINT)
        second.until("stopping")
        second.process.send_signal(signal.SIGINT)
        second.until("killing all programs")
        assert second.finish() == 0
        assert wait_until_ended(descendants)
    assert "hr_" not in "".join(second.printed)
    assert ca.with_name("server.pem").read_bytes() == certificate


def test_folder_in_use_is_rejected(tmp_path: Path) -> None:
    with DataFolder.hold(tmp_path), up("--data", str(tmp_path)) as stack:
        assert stack.finish() == 1
    assert f"in use by process {os.getpid()}" in "".join(stack.printed)


@pytest.mark.parametrize("option", ["--gateway-port", "--web-port", "--metrics-port"])
def test_port_in_use_names_its_option(tmp_path: Path, redis_server_url: str, option: str) -> None:
    port = redis_server_url.rpartition("/")[0].rpartition(":")[2]
    ports = {"--gateway-port": "0", "--web-port": "0", option: port}
    with up("--data", str(tmp_path), *chain.from_iterable(ports.items())) as stack:
        assert stack.finish() == 1
    error = f"127.0.0.1:{port} is in use. Choose another port with {option}."
    assert error in "".join(stack.printed)


def test_unreachable_server_is_reported_without_password(tmp_path: Path) -> None:
    url = f"postgresql://user:hush@127.0.0.1:{free_port()}/missing"
    with up(
        "--data", str(tmp_path), "--gateway-port", "0", "--no-web", HEADRACE_DATABASE_URL=url
    ) as stack:
        assert stack.finish() == 1
    output = "".join(stack.printed)
    assert "migrate ended with exit code 1" in output
    assert "hush" not in output
    assert not (tmp_path / "postgres").exists()


@pytest.mark.timeout(180)
def test_stack_waits_for_its_servers_and_deletes_its_data(
    databases: Databases, redis_url: str, tmp_path: Path
) -> None:
    with (
        databases.fresh(migrated=False) as url,
        role_without_connections(url) as (role_url, set_limit),
        up(
            *("--ephemeral", "--gateway-port", "0", "--no-web"),
            TMPDIR=str(tmp_path),
            HEADRACE_DATABASE_URL=role_url,
            HEADRACE_REDIS_URL=redis_url,
            HEADRACE_WORKER_SLOT="3",
        ) as stack,
    ):
        assert "did you mean HEADRACE_WORKER_SLOTS?" in stack.until("not a setting")
        assert "too many connections for role" in stack.until("trying again in")
        # Four connections suffice for the migration, but not for all services.
        set_limit(4)
        [folder] = tmp_path.glob("headrace-*")
        wait_for_postponed_start(folder / "logs")
        set_limit(50)
        assert f"{folder} (deleted at the end)" in stack.until("Data")
        stack.until("Ctrl-C stops it")
        assert not {one.name() for one in stack.descendants()} & {"postgres", "valkey-server"}
        stack.process.terminate()
        assert stack.finish() == 0
    assert not folder.exists()


@contextmanager
def role_without_connections(url: str) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Yield the URL of a role that may open no connection, and a function that changes this limit.

    The role has the privileges to migrate the database.
    """
    role = f"limited_{os.getpid()}"

    def execute(*statements: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(url, timeout=60)
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close(timeout=10)

        run_async(run)

    server = url.rpartition("/")
    execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'limited' CONNECTION LIMIT 0",
        f"ALTER DATABASE {server[2]} OWNER TO {role}",
    )
    try:
        host = server[0].rpartition("@")[2]
        yield (
            f"postgresql://{role}:limited@{host}/{server[2]}",
            lambda limit: execute(f"ALTER ROLE {role} CONNECTION LIMIT {limit}"),
        )
    finally:
        execute(
            f"ALTER DATABASE {server[2]} OWNER TO CURRENT_USER",
            f"REASSIGN OWNED BY {role} TO CURRENT_USER",
            f"DROP ROLE {role}",
        )


def wait_for_postponed_start(logs: Path) -> None:
    """Wait until some service has postponed its start."""
    deadline = time.monotonic() + DEADLINE_S
    while not any("start_postponed" in log.read_text() for log in logs.glob("*.log")):
        assert time.monotonic() < deadline, f"no log in {logs} has start_postponed"
        time.sleep(0.05)
