"""The first admin: `headrace admin bootstrap` and `python -m headrace_core bootstrap`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import text

from headrace_core.domain.access import Right, Role
from headrace_core.domain.api_key import read_api_key
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.keys import find_api_key
from headrace_core.store.access.passwords import verify_password
from headrace_core.store.access.users import find_login
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation
from support.commands import Headrace
from support.settings import environment_of


async def matches(database: Database, password: str, *, name: str = "admin") -> bool:
    async with database.statement() as conn:
        login = await find_login(conn, tenant="default", name=name, address="")
    assert login is not None
    assert login.user.role is Role.PLATFORM
    assert login.user.scope.rights == {Right.PAYLOAD_READ}
    return verify_password(login.password_hash, password)


async def test_bootstrap_prints_only_the_password(
    headrace: Headrace, settings: Settings, database: Database
) -> None:
    completed = headrace(settings, "admin", "bootstrap")
    assert completed.returncode == 0, completed.stderr
    password = completed.stdout.removesuffix("\n")
    assert await matches(database, password)
    assert password not in completed.stderr
    assert "user admin, tenant default, role platform" in " ".join(completed.stderr.split())


async def test_second_bootstrap_requires_force(
    headrace: Headrace, settings: Settings, database: Database
) -> None:
    first = headrace(settings, "admin", "bootstrap").stdout.strip()
    for arguments in ((), ("--user", "eve"), ("--key", "ci")):
        repeated = headrace(settings, "admin", "bootstrap", *arguments)
        assert repeated.returncode == 1
        assert repeated.stdout == ""
        assert "tenant 'default' has an admin" in " ".join(repeated.stderr.split())
    assert await matches(database, first)
    forced = headrace(settings, "admin", "bootstrap", "--force").stdout.strip()
    assert forced != first
    assert await matches(database, forced)
    assert not await matches(database, first)


async def test_bootstrap_prints_an_api_key(settings: Settings, database: Database) -> None:
    completed = core(settings, "--key", "ci", "--role", "admin")
    assert completed.returncode == 0, completed.stderr
    async with database.statement() as conn:
        read = read_api_key((await read_installation(conn)).secret, completed.stdout.strip())
        assert read is not None
        stored = await find_api_key(conn, key_id=read[0])
    assert stored is not None
    key, secret_hash = stored
    assert secret_hash == read[1]
    assert (key.principal, key.role, key.created_by) == ("ci", Role.ADMIN, "bootstrap")
    assert completed.stdout.strip() not in completed.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--tenant", "acme"), "tenant 'acme' does not exist"),
        (("--user", "a b"), "the name of a user must be"),
        (("--key", ""), "the principal of a key must have"),
    ],
)
async def test_invalid_arguments_are_rejected(
    headrace: Headrace, settings: Settings, arguments: tuple[str, ...], reason: str
) -> None:
    completed = headrace(settings, "admin", "bootstrap", *arguments)
    assert (completed.returncode, completed.stdout) == (1, "")
    assert reason in completed.stderr


async def test_revoked_and_disabled_admins_do_not_count(
    headrace: Headrace, settings: Settings, database: Database
) -> None:
    headrace(settings, "admin", "bootstrap")
    async with database.statement() as conn:
        await conn.execute(text("UPDATE users SET disabled = true"))
    assert headrace(settings, "admin", "bootstrap", "--key", "ci").returncode == 0
    assert headrace(settings, "admin", "bootstrap", "--key", "ci").returncode == 1
    async with database.statement() as conn:
        await conn.execute(text("UPDATE api_keys SET revoke_time = clock_timestamp()"))
    completed = headrace(settings, "admin", "bootstrap")
    assert completed.returncode == 1
    assert "user 'admin' exists" in " ".join(completed.stderr.split())
    assert headrace(settings, "admin", "bootstrap", "--user", "eve").returncode == 0


def core(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m headrace_core bootstrap`."""
    return subprocess.run(
        [sys.executable, "-m", "headrace_core", "bootstrap", *arguments],
        env=environment_of(settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
