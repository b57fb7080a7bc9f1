"""The tokens that the installation signs: keys, their rotation, and revocation."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace

import jwt
import pytest

from headrace_core.domain.access import (
    AccessChange,
    Minter,
    Principal,
    PrincipalKind,
    Role,
    parse_scope,
)
from headrace_core.domain.errors import Unauthenticated
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.changes import read_version, record_change
from headrace_core.store.access.signing_keys import read_signing_keys, rotate_signing_key
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation
from headrace_gateway.access.signing import InstallationTokens
from support.gateway import TIMEOUT
from support.settings import environment_of

# Tokens contain whole seconds, and live for an hour at most. On a busy machine, the tests run long
# after the import of this module.
EXPIRE_TIME = float(int(time.time()) + 3_000)


def user(**changes: object) -> Principal:
    principal = Principal.of(
        name="ada",
        tenant="default",
        kind=PrincipalKind.USER,
        role=Role.OPERATOR,
        scope=parse_scope(["queue:mail", "label:user=42"]),
        credential="session",
        expire_time=EXPIRE_TIME,
    )
    return replace(principal, **changes)


async def gateway_tokens(database: Database) -> InstallationTokens:
    """Return the tokens of a new gateway."""
    async with database.statement() as conn:
        return InstallationTokens(database=database, installation=await read_installation(conn))


@pytest.fixture
async def tokens(database: Database) -> InstallationTokens:
    return await gateway_tokens(database)


async def rotate(database: Database, *, revoke: bool = False) -> str:
    async with database.transaction() as conn:
        return await rotate_signing_key(conn, revoke=revoke)


async def change(database: Database, *, kind: str, subject: str) -> AccessChange:
    async with database.transaction() as conn:
        await record_change(conn, tenant="default", kind=kind, subject=subject)
        version = await read_version(conn)
    return AccessChange(version=version, tenant="default", kind=kind, subject=subject)


async def version(database: Database) -> int:
    async with database.statement() as conn:
        return await read_version(conn)


def key_id(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def test_token_identifies_its_principal_at_any_gateway(
    database: Database, tokens: InstallationTokens
) -> None:
    other = await gateway_tokens(database)
    token = await tokens.issue(user(), version=0)
    assert other.accepts(token)
    assert await other.verify(token) == user()


async def test_concurrent_gateways_create_one_signing_key(database: Database) -> None:
    gateways = [await gateway_tokens(database) for _ in range(4)]
    issued = await asyncio.gather(*(gateway.issue(user(), version=0) for gateway in gateways))
    assert len({key_id(token) for token in issued}) == 1
    async with database.statement() as conn:
        assert len(await read_signing_keys(conn)) == 1


async def test_rotation_keeps_old_tokens_valid(
    database: Database, tokens: InstallationTokens
) -> None:
    old = await tokens.issue(user(), version=0)
    new_key = await rotate(database)
    other = await gateway_tokens(database)
    new = await other.issue(user(), version=0)
    assert key_id(new) == new_key != key_id(old)
    # The first gateway has cached the keys without the new one.
    for gateway in (tokens, other):
        for token in (old, new):
            assert await gateway.verify(token) == user()


async def test_revoked_key_invalidates_its_tokens(
    database: Database, tokens: InstallationTokens
) -> None:
    old = await tokens.issue(user(), version=0)
    await rotate(database, revoke=True)
    tokens.forget(AccessChange(version=1, tenant="", kind="signing_key", subject=key_id(old)))
    with pytest.raises(Unauthenticated):
        await tokens.verify(old)
    assert await tokens.verify(await tokens.issue(user(), version=0)) == user()


@pytest.mark.parametrize("revoke", [False, True])
async def test_rotate_command_changes_the_signing_key(
    settings: Settings, database: Database, tokens: InstallationTokens, revoke: bool
) -> None:
    old = await tokens.issue(user(), version=0)
    completed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "headrace_core", "rotate-signing-key", *["--revoke"] * revoke],
        env=environment_of(settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    async with database.statement() as conn:
        keys = await read_signing_keys(conn)
    assert [key.id == key_id(old) for key in keys] == ([False] if revoke else [False, True])
    assert keys[0].id in completed.stdout + completed.stderr
    assert keys[0].seed.hex() not in completed.stdout + completed.stderr


async def test_repr_omits_the_private_key(database: Database, tokens: InstallationTokens) -> None:
    await tokens.issue(user(), version=0)
    async with database.statement() as conn:
        [key] = await read_signing_keys(conn)
    assert "seed" not in repr(key)


@pytest.mark.parametrize("subject", ["session", "ada"])
async def test_change_of_session_or_user_revokes_token(
    database: Database, tokens: InstallationTokens, subject: str
) -> None:
    token = await tokens.issue(user(), version=await version(database))
    await tokens.verify(token)
    tokens.forget(await change(database, kind="user", subject=subject))
    # A new gateway reads the change from the database.
    for gateway in (tokens, await gateway_tokens(database)):
        with pytest.raises(Unauthenticated):
            await gateway.verify(token)
        later = await gateway.issue(user(), version=await version(database))
        assert await gateway.verify(later) == user()


async def test_change_of_another_subject_revokes_nothing(
    database: Database, tokens: InstallationTokens
) -> None:
    token = await tokens.issue(user(), version=await version(database))
    await tokens.verify(token)
    for kind, subject in (("user", "bob"), ("api_key", "ada"), ("tenant", "default")):
        tokens.forget(await change(database, kind=kind, subject=subject))
    assert await tokens.verify(token) == user()


async def test_missed_change_is_read_from_the_database(
    database: Database, tokens: InstallationTokens
) -> None:
    token = await tokens.issue(user(), version=await version(database))
    await tokens.verify(token)
    await change(database, kind="user", subject="ada")
    tokens.forget(None)
    with pytest.raises(Unauthenticated):
        await tokens.verify(token)


async def test_revocation_of_minter_revokes_watch_token(
    database: Database, tokens: InstallationTokens
) -> None:
    watcher = user(
        kind=PrincipalKind.WATCH_TOKEN,
        credential="token",
        minter=Minter(
            kind=PrincipalKind.API_KEY, tenant="default", name="service", credential="key"
        ),
    )
    token = await tokens.issue(watcher, version=await version(database))
    assert await tokens.verify(token) == watcher
    revoked = await change(database, kind="api_key", subject="key")
    assert revoked.concerns(watcher, "default")
    tokens.forget(revoked)
    with pytest.raises(Unauthenticated):
        await tokens.verify(token)


async def test_token_minted_without_access_control_is_invalid(
    database: Database, tokens: InstallationTokens
) -> None:
    watcher = user(
        kind=PrincipalKind.WATCH_TOKEN,
        minter=Minter(
            kind=PrincipalKind.ANONYMOUS, tenant="default", name="anonymous", credential=""
        ),
    )
    with pytest.raises(Unauthenticated):
        await tokens.verify(await tokens.issue(watcher, version=0))
