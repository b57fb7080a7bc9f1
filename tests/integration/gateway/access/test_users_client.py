"""User functions of the Python client and the command line, on a real gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from headrace import AccessConflict, AccessNotFound, Client, PrincipalKind, Role, Unauthenticated
from headrace_core.domain import access
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from support.access import add_api_key
from support.command_line import Headrace
from support.gateway import TIMEOUT
from support.until import until

NEW_PASSWORD = "a long and quiet river"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


async def test_client_manages_users(admin: Client) -> None:
    created = await admin.create_user("ada", role="operator", scope=["queue:mail"])
    assert created.password not in repr(created)
    assert (created.user.role, created.user.scope) == (Role.OPERATOR, ("queue:mail",))
    with pytest.raises(AccessConflict, match="user 'ada' exists"):
        await admin.create_user("ada")
    user_with_password = await admin.create_user("grace", password=NEW_PASSWORD)
    assert user_with_password.password == ""

    changed = await admin.update_user("ada", role="viewer", scope=(), disabled=True)
    assert (changed.role, changed.scope, changed.disabled) == (Role.VIEWER, (), True)
    assert [user.name async for user in admin.users()] == ["ada", "grace"]
    await admin.delete_user("ada")
    with pytest.raises(AccessNotFound):
        await admin.reset_password("ada")


async def test_client_logs_in_and_changes_the_password(target: str, admin: Client) -> None:
    created = await admin.create_user("ada", role="operator")
    async with Client(target) as anonymous:
        login = await anonymous.login("ada", created.password)
        assert (login.principal.name, login.principal.kind) == ("ada", PrincipalKind.USER)
        tokens = login.tokens
        assert tokens.access_token not in repr(login)
        assert tokens.refresh_token not in repr(login)
        async with Client(target, token=tokens.access_token) as client:
            await client.change_password(created.password, NEW_PASSWORD)
        with pytest.raises(Unauthenticated):
            await anonymous.login("ada", created.password)
        new_tokens = (await anonymous.login("ada", NEW_PASSWORD)).tokens

        refreshed = await anonymous.refresh_session(new_tokens.refresh_token)
        async with Client(target, token=refreshed.access_token) as client:
            assert (await client.whoami()).name == "ada"
        await anonymous.logout(refreshed.refresh_token)
        with pytest.raises(Unauthenticated):
            await anonymous.refresh_session(refreshed.refresh_token)


async def test_stream_continues_with_refreshed_session_tokens(target: str, admin: Client) -> None:
    created = await admin.create_user("ada", role="operator")
    async with Client(target) as anonymous:
        tokens = (await anonymous.login("ada", created.password)).tokens
        returned: list[str] = []

        async def next_token() -> str:
            nonlocal tokens
            if returned:
                tokens = await anonymous.refresh_session(tokens.refresh_token)
            returned.append(tokens.access_token)
            return tokens.access_token

        async with Client(target, token_provider=next_token) as client, client.watch() as watch:
            jobs = [await admin.submit("email")]
            async with asyncio.timeout(TIMEOUT):
                seen = [(await anext(watch)).job_id]
            # A change of the role ends the stream; the next token has the new role.
            await admin.update_user("ada", role="viewer")
            jobs.append(await admin.submit("email"))
            async with asyncio.timeout(TIMEOUT):
                seen.append((await anext(watch)).job_id)

    assert seen == [job.id for job in jobs]


# The command line


async def test_command_line_logs_in_and_out(
    headrace: Headrace, admin: Client, tmp_path: Path
) -> None:
    password = (await admin.create_user("ada", role="operator")).password
    rejected = await headrace("login", "ada", stdin="wrong\n")
    assert rejected.code == 4
    assert not (tmp_path / "headrace").exists()

    login_result = await headrace("login", "ada", stdin=f"{password}\n")
    assert login_result.code == 0, login_result.err
    assert "logged in as ada (operator, tenant default) in the context default" in login_result.out
    file = tmp_path / "headrace" / "config.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert password not in file.read_text()
    assert "ada" in (await headrace("whoami")).out
    assert "user ada" in (await headrace("context", "list")).out

    changed = await headrace("password", stdin=f"{password}\n{NEW_PASSWORD}\n")
    assert changed.code == 0, changed.err
    logged_out = await headrace("logout")
    assert logged_out.code == 0, logged_out.err
    assert "token" not in file.read_text()
    assert (await headrace("whoami")).code == 4
    assert (await headrace("logout")).code == 2
    assert (await headrace("login", stdin=f"{NEW_PASSWORD}\n")).code == 0


async def test_command_line_renews_the_session(
    headrace: Headrace, admin: Client, tmp_path: Path
) -> None:
    password = (await admin.create_user("ada", role="operator")).password
    await headrace("login", "ada", stdin=f"{password}\n")
    file = tmp_path / "headrace" / "config.toml"
    before = file.read_text()
    lines = [
        'access_expire_time = "2020-01-01T00:00:00+00:00"' if "expire_time" in line else line
        for line in before.splitlines()
    ]
    file.write_text("\n".join(lines))

    results = await asyncio.gather(*(headrace("whoami", "-o", "json") for _ in range(3)))
    assert [result.code for result in results] == [0, 0, 0]
    assert file.read_text() != before
    assert "2020-01-01" not in file.read_text()

    await admin.update_user("ada", disabled=True)

    async def rejection() -> str:
        completed = await headrace("whoami")
        return completed.err if completed.code == 4 else ""

    assert "try: headrace login" in await until(rejection)


async def test_command_line_manages_users(headrace: Headrace, database: Database) -> None:
    key = await add_api_key(database, access.Role.ADMIN)
    created = await headrace("users", "create", "ada", "--role", "operator", HEADRACE_API_KEY=key)
    assert created.code == 0, created.err
    password = created.out.strip()
    assert (await headrace("login", "ada", stdin=f"{password}\n")).code == 0

    assert "enabled" in (await headrace("users", "list", HEADRACE_API_KEY=key)).out
    disabled = await headrace("users", "update", "ada", "--disable", HEADRACE_API_KEY=key)
    assert "disabled" in disabled.out
    reset = await headrace("users", "reset-password", "ada", HEADRACE_API_KEY=key)
    assert reset.out.strip() not in {"", password}
    assert (await headrace("users", "delete", "ada", HEADRACE_API_KEY=key)).code == 0
    assert (await headrace("users", "delete", "ada", HEADRACE_API_KEY=key)).code == 3
