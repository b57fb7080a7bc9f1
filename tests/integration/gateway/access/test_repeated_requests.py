"""Repeated requests that create keys and users, after a lost response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio
import pytest
from sqlalchemy import text

from headrace import Client, NewApiKey, NewUser
from headrace.v1.access_service_pb2 import (
    ROLE_ADMIN,
    ROLE_OPERATOR,
    CreateApiKeyRequest,
    RevokeApiKeyRequest,
    WhoAmIRequest,
)
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.audit_service_pb2 import ListAuditEventsRequest
from headrace.v1.audit_service_pb2_grpc import AuditServiceStub
from headrace.v1.session_service_pb2 import LoginRequest
from headrace.v1.session_service_pb2_grpc import SessionServiceStub
from headrace.v1.user_service_pb2 import CreateUserRequest, UpdateUserRequest
from headrace.v1.user_service_pb2_grpc import UserServiceStub
from headrace_core.domain.access import Role
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support.access import Metadata, add_api_key, bearer, caller
from support.gateway import TIMEOUT, rpc_error
from support.proxy import Proxy
from support.until import until

REQUEST_ID = "5e0c3c5e-6a0f-4b57-9d4e-0f6a3c1b2d10"
PASSWORD = "correct horse battery staple"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def admin_metadata(database: Database) -> Metadata:
    return await caller(database, Role.ADMIN)


@pytest.fixture
async def proxy(gateway: Gateway) -> AsyncIterator[Proxy]:
    proxy = Proxy(f"grpc://127.0.0.1:{gateway.port}")
    await proxy.start()
    yield proxy
    await proxy.cut()


async def let_window_pass(database: Database) -> None:
    """Let the time pass in which a repeated request receives the secret."""
    async with database.statement() as conn:
        for table in ("api_keys", "users"):
            await conn.execute(
                text(f"UPDATE {table} SET create_time = create_time - interval '10 minutes'")
            )


def key_request(**changes: object) -> CreateApiKeyRequest:
    request = CreateApiKeyRequest(
        principal="billing", role=ROLE_OPERATOR, scope=["queue:mail"], request_id=REQUEST_ID
    )
    request.MergeFrom(CreateApiKeyRequest(**changes))
    return request


# Lost responses


async def lose_response(
    proxy: Proxy,
    client: Client,
    call: Callable[[], Awaitable[object]],
    created: Callable[[], Awaitable[bool]],
) -> object:
    """Return the result of a call whose first response is lost after the commit."""
    # A connection begins with a message of the server.
    await client.whoami()
    proxy.mute()
    calling = asyncio.ensure_future(call())
    await until(created)
    await proxy.cut()
    proxy.release()
    await proxy.start()
    async with asyncio.timeout(TIMEOUT):
        return await calling


async def test_lost_response_leaves_one_usable_key(
    proxy: Proxy, admin: Client, admin_key: str
) -> None:
    async def keys() -> list[str]:
        return [key.id async for key in admin.api_keys() if key.principal == "billing"]

    async def is_created() -> bool:
        return bool(await keys())

    async with Client(proxy.address, api_key=admin_key) as client:
        created = await lose_response(
            proxy, client, lambda: client.create_api_key("billing"), is_created
        )
    assert isinstance(created, NewApiKey)
    assert await keys() == [created.api_key.id]
    async with Client(proxy.address, api_key=created.secret) as billing:
        assert (await billing.whoami()).name == "billing"


async def test_lost_response_leaves_user_with_known_password(
    proxy: Proxy, admin: Client, admin_key: str
) -> None:
    async def is_created() -> bool:
        return bool([user async for user in admin.users()])

    async with Client(proxy.address, api_key=admin_key) as client:
        created = await lose_response(proxy, client, lambda: client.create_user("ada"), is_created)
        assert isinstance(created, NewUser)
        assert (await client.login("ada", created.password)).principal.name == "ada"


# Keys


async def test_repeated_request_returns_same_key_and_secret(
    access: AccessServiceStub, admin_metadata: Metadata
) -> None:
    responses = [
        await access.CreateApiKey(key_request(), metadata=admin_metadata) for _ in range(2)
    ]
    assert responses[0] == responses[1]
    me = await access.WhoAmI(WhoAmIRequest(), metadata=bearer(responses[0].secret))
    assert me.principal.credential == responses[0].api_key.id


async def test_concurrent_repeats_return_same_key(
    access: AccessServiceStub, admin_metadata: Metadata
) -> None:
    responses = await asyncio.gather(
        *(access.CreateApiKey(key_request(), metadata=admin_metadata) for _ in range(5))
    )
    assert len({response.secret for response in responses}) == 1


async def test_requests_without_request_id_create_several_keys(
    access: AccessServiceStub, admin_metadata: Metadata
) -> None:
    request = CreateApiKeyRequest(principal="billing")
    responses = [await access.CreateApiKey(request, metadata=admin_metadata) for _ in range(2)]
    assert responses[0].api_key.id != responses[1].api_key.id


async def test_request_id_of_another_principal_creates_another_key(
    access: AccessServiceStub, admin_metadata: Metadata, database: Database
) -> None:
    other = bearer(await add_api_key(database, Role.ADMIN, principal="grace"))
    responses = [
        await access.CreateApiKey(key_request(), metadata=metadata)
        for metadata in (admin_metadata, other)
    ]
    assert responses[0].api_key.id != responses[1].api_key.id
    assert responses[0].secret != responses[1].secret


@pytest.mark.parametrize(
    "changes",
    [{"principal": "other"}, {"role": ROLE_ADMIN}, {"scope": ["queue:other"]}],
    ids=["principal", "role", "scope"],
)
async def test_request_id_with_other_content_is_rejected(
    access: AccessServiceStub, admin_metadata: Metadata, changes: dict[str, object]
) -> None:
    created = await access.CreateApiKey(key_request(), metadata=admin_metadata)
    error = await rpc_error(access.CreateApiKey(key_request(**changes), metadata=admin_metadata))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCESS_CONFLICT")
    assert created.api_key.id in error.message
    assert REQUEST_ID not in error.message


async def test_late_repeat_is_rejected(
    access: AccessServiceStub, admin_metadata: Metadata, database: Database
) -> None:
    await access.CreateApiKey(key_request(), metadata=admin_metadata)
    await let_window_pass(database)
    error = await rpc_error(access.CreateApiKey(key_request(), metadata=admin_metadata))
    assert error.reason == "ACCESS_CONFLICT"
    assert "use a new request_id" in error.message


async def test_repeat_after_revocation_is_rejected(
    access: AccessServiceStub, admin_metadata: Metadata
) -> None:
    created = await access.CreateApiKey(key_request(), metadata=admin_metadata)
    await access.RevokeApiKey(RevokeApiKeyRequest(id=created.api_key.id), metadata=admin_metadata)
    error = await rpc_error(access.CreateApiKey(key_request(), metadata=admin_metadata))
    assert error.reason == "ACCESS_CONFLICT"


@pytest.mark.parametrize("request_id", ["x" * 15, "x" * 129, "x" * 16 + "\0"])
async def test_malformed_request_id_is_rejected(
    access: AccessServiceStub, users: UserServiceStub, admin_metadata: Metadata, request_id: str
) -> None:
    for call in (
        access.CreateApiKey(
            CreateApiKeyRequest(principal="a", request_id=request_id), metadata=admin_metadata
        ),
        users.CreateUser(
            CreateUserRequest(name="a", request_id=request_id), metadata=admin_metadata
        ),
    ):
        assert set((await rpc_error(call)).violations) == {"request_id"}


async def test_repeat_is_audited(
    access: AccessServiceStub, channel: grpc.aio.Channel, admin_metadata: Metadata
) -> None:
    for _ in range(2):
        await access.CreateApiKey(key_request(), metadata=admin_metadata)
    log = await AuditServiceStub(channel).ListAuditEvents(
        ListAuditEventsRequest(), metadata=admin_metadata
    )
    targets = [event.target for event in log.events if "CreateApiKey" in event.method]
    assert len(targets) == 2
    assert len(set(targets)) == 1


# Users


@pytest.mark.parametrize("password", ["", PASSWORD], ids=["random", "chosen"])
async def test_repeated_request_returns_same_user_and_password(
    users: UserServiceStub, channel: grpc.aio.Channel, admin_metadata: Metadata, password: str
) -> None:
    request = CreateUserRequest(name="ada", password=password, request_id=REQUEST_ID)
    responses = [await users.CreateUser(request, metadata=admin_metadata) for _ in range(2)]
    assert responses[0] == responses[1]
    login = LoginRequest(username="ada", password=responses[1].password or password)
    assert (await SessionServiceStub(channel).Login(login)).principal.name == "ada"


@pytest.mark.parametrize(
    "other",
    [
        CreateUserRequest(name="ada", request_id="x" * 16),
        CreateUserRequest(name="ada", request_id=REQUEST_ID, password=PASSWORD),
        CreateUserRequest(name="ada", request_id=REQUEST_ID, role=ROLE_OPERATOR),
        CreateUserRequest(name="ada"),
    ],
    ids=["request_id", "password", "role", "no request_id"],
)
async def test_other_request_for_existing_user_is_rejected(
    users: UserServiceStub, admin_metadata: Metadata, other: CreateUserRequest
) -> None:
    request = CreateUserRequest(name="ada", request_id=REQUEST_ID)
    await users.CreateUser(request, metadata=admin_metadata)
    error = await rpc_error(users.CreateUser(other, metadata=admin_metadata))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCESS_CONFLICT")


async def test_late_repeat_for_user_is_rejected(
    users: UserServiceStub, admin_metadata: Metadata, database: Database
) -> None:
    request = CreateUserRequest(name="ada", request_id=REQUEST_ID)
    await users.CreateUser(request, metadata=admin_metadata)
    await let_window_pass(database)
    error = await rpc_error(users.CreateUser(request, metadata=admin_metadata))
    assert error.reason == "ACCESS_CONFLICT"


async def test_repeat_after_password_reset_is_rejected(
    users: UserServiceStub, admin_metadata: Metadata
) -> None:
    request = CreateUserRequest(name="ada", request_id=REQUEST_ID)
    await users.CreateUser(request, metadata=admin_metadata)
    await users.UpdateUser(UpdateUserRequest(name="ada", password=""), metadata=admin_metadata)
    error = await rpc_error(users.CreateUser(request, metadata=admin_metadata))
    assert error.reason == "ACCESS_CONFLICT"
