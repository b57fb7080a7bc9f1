"""The Python client and the command line with credentials, against a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from headrace import (
    AccessConflict,
    AccessNotFound,
    Client,
    JobEvent,
    PermissionDenied,
    PrincipalKind,
    Role,
    SyncClient,
    Unauthenticated,
)
from headrace_core.domain import access
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from support.access import add_api_key, add_tenant
from support.command_line import Headrace
from support.gateway import TIMEOUT
from support.until import until


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


class RotatingKey:
    """A token provider that creates a new key for each request."""

    def __init__(self, admin: Client, *, role: Role = Role.OPERATOR) -> None:
        self.ids: list[str] = []
        self._admin = admin
        self._role = role
        self._created = asyncio.Event()

    async def __call__(self) -> str:
        created = await self._admin.create_api_key("billing", role=self._role)
        self.ids.append(created.api_key.id)
        self._created.set()
        return created.secret

    async def until(self, keys: int) -> None:
        """Wait until the client has requested this number of keys."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.ids) < keys:
                self._created.clear()
                await self._created.wait()


async def take(events: AsyncIterator[JobEvent], count: int) -> list[tuple[str, int]]:
    async with asyncio.timeout(TIMEOUT):
        return [(event.job_id, event.seq) for event in [await anext(events) for _ in range(count)]]


async def is_rejected(client: Client) -> bool:
    """Return whether the gateway has read the revocation of the client's key."""
    try:
        await client.whoami()
    except Unauthenticated:
        return True
    return False


# Keys


async def test_client_mints_a_watch_token(target: str, admin: Client) -> None:
    labeled = await admin.submit("email", labels={"user": "42"})
    await admin.submit("email", labels={"user": "43"})
    token = await admin.mint_watch_token(labels={"user": "42"}, lifetime=600)
    assert token.token not in repr(token)
    assert token.principal.kind is PrincipalKind.WATCH_TOKEN
    async with Client(target, token=token.token) as browser:
        assert [job.id async for job in browser.list()] == [labeled.id]
        with pytest.raises(PermissionDenied):
            await browser.cancel(labeled.id)


async def test_client_manages_keys(target: str, admin: Client) -> None:
    expire_time = datetime.now(UTC) + timedelta(hours=1)
    created = await admin.create_api_key(
        "billing", role="operator", scope=["queue:mail"], expire_time=expire_time
    )
    assert created.secret not in repr(created)
    assert created.secret.split("_")[1] == created.api_key.id

    async with Client(target, api_key=created.secret) as client:
        me = await client.whoami()
        assert (me.name, me.kind, me.role) == ("billing", PrincipalKind.API_KEY, Role.OPERATOR)
        assert (me.scope, me.credential) == (("queue:mail",), created.api_key.id)
        assert me.expire_time == expire_time
        with pytest.raises(PermissionDenied) as denied:
            await client.create_api_key("other")
        assert denied.value.right == "access:manage"

        revoked = await admin.revoke_api_key(created.api_key.id)
        assert revoked.revoke_time is not None
        await until(lambda: is_rejected(client))
    listed = {key.id: key async for key in admin.api_keys()}
    assert listed[created.api_key.id].principal == "billing"
    assert listed[created.api_key.id].created_by == "ada"
    with pytest.raises(AccessNotFound, match="api key 'a' does not exist"):
        await admin.revoke_api_key("a")


async def test_synchronous_client_manages_keys(target: str, admin_key: str) -> None:
    def manage() -> None:
        with SyncClient(target, api_key=admin_key) as client:
            created = client.create_api_key("billing")
            client.revoke_api_key(created.api_key.id)
            assert created.api_key.id in [key.id for key in client.api_keys()]
            assert client.whoami().name == "ada"

    await asyncio.to_thread(manage)


async def test_invalid_key_arguments_are_rejected(admin: Client) -> None:
    with pytest.raises(ValueError, match="'owner' is not a role; use one of viewer, operator"):
        await admin.create_api_key("billing", role="owner")
    with pytest.raises(ValueError, match="must have a time zone"):
        await admin.create_api_key("billing", expire_time=datetime(2100, 1, 1))  # noqa: DTZ001


@pytest.fixture
async def acme(database: Database) -> str:
    """Another tenant, which exists before the gateway starts."""
    await add_tenant(database, "acme")
    return "acme"


async def test_platform_principal_acts_in_another_tenant(
    acme: str, target: str, database: Database
) -> None:
    key = await add_api_key(database, access.Role.PLATFORM)
    async with Client(target, api_key=key, tenant=acme) as client:
        me = await client.whoami()

    assert (me.tenant, me.acting_tenant) == ("default", "acme")


async def test_client_manages_certificate_bindings(target: str, database: Database) -> None:
    key = await add_api_key(database, access.Role.PLATFORM)
    async with Client(target, api_key=key) as client:
        created = await client.create_certificate_binding(
            "dns:billing.example.com", "billing", role="operator", scope=["queue:mail"]
        )
        assert (created.principal, created.role) == ("billing", Role.OPERATOR)
        with pytest.raises(AccessConflict):
            await client.create_certificate_binding("dns:billing.example.com", "other")
        assert [binding async for binding in client.certificate_bindings()] == [created]
        assert await client.delete_certificate_binding(created.san) == created
        with pytest.raises(AccessNotFound):
            await client.delete_certificate_binding(created.san)


# Streams


async def test_watch_resumes_with_a_new_key_without_a_gap(target: str, admin: Client) -> None:
    provider = RotatingKey(admin)
    async with (
        Client(target, token_provider=provider) as client,
        client.watch(queues=["mail"]) as watch,
    ):
        jobs = [await admin.submit("email", queue="mail") for _ in range(2)]
        seen = await take(watch, 2)
        for keys in range(2, 5):
            # Some of these jobs are submitted before, during and after the interruption.
            waiting = asyncio.ensure_future(take(watch, 3))
            await admin.revoke_api_key(provider.ids[-1])
            jobs += [await admin.submit("email", queue="mail") for _ in range(2)]
            await provider.until(keys)
            jobs += [await admin.submit("email", queue="mail")]
            seen += await waiting

    assert seen == [(job.id, 1) for job in jobs]
    assert watch.resumes == 3


async def test_job_stream_resumes_with_a_new_key_without_a_gap(target: str, admin: Client) -> None:
    provider = RotatingKey(admin)
    async with Client(target, token_provider=provider) as client:
        job = await client.submit("email")
        async with job.watch() as events:
            seen = await take(events, 1)
            waiting = asyncio.ensure_future(take(events, 1))
            await admin.revoke_api_key(provider.ids[0])
            await provider.until(2)
            await admin.cancel(job.id)
            seen += await waiting
            assert [event async for event in events] == []

    assert seen == [(job.id, 1), (job.id, 2)]


async def test_subscription_resumes_with_a_new_key_without_a_gap(
    target: str, admin: Client
) -> None:
    provider = RotatingKey(admin)
    async with Client(target, token_provider=provider) as client:
        await client.create_subscription("mail", queues=["mail"])
        async with client.subscribe("mail") as events:
            jobs = [await admin.submit("email", queue="mail")]
            seen = await take(events, 1)
            await events.ack()
            waiting = asyncio.ensure_future(take(events, 3))
            await admin.revoke_api_key(provider.ids[0])
            jobs += [await admin.submit("email", queue="mail") for _ in range(2)]
            await provider.until(2)
            jobs += [await admin.submit("email", queue="mail")]
            seen += await waiting
            await events.ack()

    assert seen == [(job.id, 1) for job in jobs]


async def test_stream_of_a_revoked_key_raises_and_keeps_its_cursor(
    target: str, admin: Client
) -> None:
    created = await admin.create_api_key("billing", role=Role.VIEWER)
    async with Client(target, api_key=created.secret) as client, client.watch() as watch:
        first = await admin.submit("email")
        seen = await take(watch, 1)
        await admin.revoke_api_key(created.api_key.id)
        with pytest.raises(Unauthenticated):
            await take(watch, 1)
    second = await admin.submit("email")
    async with admin.watch(cursor=watch.cursor) as resumed:
        seen += await take(resumed, 1)

    assert seen == [(first.id, 1), (second.id, 1)]


async def test_expired_key_ends_its_stream(target: str, admin: Client) -> None:
    lifetimes = [timedelta(seconds=1)]
    renewed = asyncio.Event()

    async def next_key() -> str:
        expire_time = datetime.now(UTC) + lifetimes.pop() if lifetimes else None
        if expire_time is None:
            renewed.set()
        return (await admin.create_api_key("billing", expire_time=expire_time)).secret

    async with Client(target, token_provider=next_key) as client, client.watch() as watch:
        first = await admin.submit("email")
        seen = await take(watch, 1)
        waiting = asyncio.ensure_future(take(watch, 1))
        async with asyncio.timeout(TIMEOUT):
            await renewed.wait()
        second = await admin.submit("email")
        seen += await waiting

    assert seen == [(first.id, 1), (second.id, 1)]


# The command line


async def test_command_line_manages_keys(headrace: Headrace, target: str, admin_key: str) -> None:
    created = await headrace(
        *("keys", "create", "billing", "--role", "operator", "--scope", "queue:mail"),
        HEADRACE_API_KEY=admin_key,
    )
    assert created.code == 0, created.err
    key = created.out.strip()
    key_id = key.split("_")[1]
    assert key not in created.err

    output = await headrace("whoami", HEADRACE_API_KEY=key)
    assert output.code == 0
    assert "billing" in output.out
    assert "queue:mail" in output.out
    denied = await headrace("keys", "list", HEADRACE_API_KEY=key)
    assert (denied.code, denied.out) == (4, "")
    assert "lacks the right 'access:manage'" in denied.err

    listed = await headrace("keys", "list", HEADRACE_API_KEY=admin_key)
    assert key_id in listed.out
    assert key not in listed.out
    revoked = await headrace("keys", "revoke", key_id, "nosuch", HEADRACE_API_KEY=admin_key)
    assert revoked.code == 3
    assert f"key {key_id} was revoked" in revoked.err
    async with Client(target, api_key=key) as client:
        await until(lambda: is_rejected(client))
    assert (await headrace("whoami", HEADRACE_API_KEY=key)).code == 4
    assert (await headrace("whoami")).code == 4


async def test_command_line_manages_certificate_bindings(
    headrace: Headrace, database: Database
) -> None:
    key = await add_api_key(database, access.Role.PLATFORM)
    name = "uri:spiffe://example.com/billing"
    bound = await headrace(
        "certificates", "bind", name, "billing", "--role", "operator", HEADRACE_API_KEY=key
    )
    assert bound.code == 0, bound.err
    listed = await headrace("certificates", "list", HEADRACE_API_KEY=key)
    assert f"{name}  billing    operator" in listed.out
    assert (await headrace("certificates", "unbind", name, HEADRACE_API_KEY=key)).code == 0
    assert (await headrace("certificates", "unbind", name, HEADRACE_API_KEY=key)).code == 3


async def test_command_line_mints_a_watch_token(headrace: Headrace, admin_key: str) -> None:
    token = await headrace("watch-token", "--label", "user=42", HEADRACE_API_KEY=admin_key)
    assert token.code == 0, token.err
    output = await headrace("whoami", HEADRACE_TOKEN=token.out.strip())
    assert "label:user=42" in output.out


async def test_get_without_payload_right_prints_the_job(
    headrace: Headrace, admin: Client, database: Database
) -> None:
    job = await admin.submit("email", {"to": "ada"})
    viewer = await add_api_key(database, access.Role.VIEWER)

    output = await headrace("get", job.id, HEADRACE_API_KEY=viewer)

    assert output.code == 0, output.err
    assert job.id in output.out
    assert "withheld" in output.out
    assert "to" not in output.out.split()
