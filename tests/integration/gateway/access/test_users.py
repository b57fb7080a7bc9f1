"""Users: logins, refresh tokens, passwords and changes by an admin."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from sqlalchemy import text

from headrace.v1 import session_service_pb2 as sessions_pb2
from headrace.v1 import user_service_pb2 as users_pb2
from headrace.v1.access_service_pb2 import (
    PRINCIPAL_KIND_USER,
    ROLE_ADMIN,
    ROLE_OPERATOR,
    ROLE_PLATFORM,
    ROLE_VIEWER,
    WhoAmIRequest,
)
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.job_service_pb2 import WatchJobsRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.session_service_pb2 import (
    ChangePasswordRequest,
    LoginRequest,
    LogoutRequest,
    RefreshSessionRequest,
    SessionTokens,
)
from headrace.v1.session_service_pb2_grpc import SessionServiceStub
from headrace.v1.user_service_pb2 import (
    CreateUserRequest,
    DeleteUserRequest,
    ListUsersRequest,
    ScopeEntries,
    UpdateUserRequest,
)
from headrace.v1.user_service_pb2_grpc import UserServiceStub
from headrace_core.domain.access import Role
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.sessions import MAX_SESSIONS
from headrace_core.store.sql.database import Database
from support.access import Metadata, add_tenant, bearer, caller
from support.gateway import TIMEOUT, RpcError, rpc_error
from support.until import until

PASSWORD = "correct horse battery staple"
OTHER_PASSWORD = "an entirely different secret"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def admin(database: Database) -> Metadata:
    """The metadata of an admin of the default tenant."""
    return await caller(database, Role.ADMIN)


@pytest.fixture
def sessions(channel: grpc.aio.Channel) -> SessionServiceStub:
    return SessionServiceStub(channel)


@pytest.fixture
async def ada(users: UserServiceStub, admin: Metadata) -> str:
    """The name of an operator."""
    request = CreateUserRequest(name="ada", role=ROLE_OPERATOR, password=PASSWORD)
    await users.CreateUser(request, metadata=admin)
    return "ada"


async def log_in(
    sessions: SessionServiceStub, username: str = "ada", password: str = PASSWORD
) -> SessionTokens:
    response = await sessions.Login(LoginRequest(username=username, password=password))
    return response.tokens


async def refresh(sessions: SessionServiceStub, token: str) -> SessionTokens:
    response = await sessions.RefreshSession(RefreshSessionRequest(refresh_token=token))
    return response.tokens


async def end_replay_window(database: Database) -> None:
    """Move time past the window in which a replaced refresh token may be used again."""
    async with database.statement() as conn:
        await conn.execute(
            text("UPDATE sessions SET replace_time = replace_time - interval '31 s'")
        )


async def until_rejected(access: AccessServiceStub, tokens: SessionTokens) -> RpcError:
    """Wait until the gateway rejects an access token; return the error."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await access.WhoAmI(WhoAmIRequest(), metadata=bearer(tokens.access_token))
            except grpc.aio.AioRpcError:
                break
    return await rpc_error(access.WhoAmI(WhoAmIRequest(), metadata=bearer(tokens.access_token)))


async def test_user_logs_in(
    access: AccessServiceStub,
    sessions: SessionServiceStub,
    users: UserServiceStub,
    ada: str,
    admin: Metadata,
) -> None:
    response = await sessions.Login(LoginRequest(username=ada, password=PASSWORD))
    tokens = response.tokens
    me = await access.WhoAmI(WhoAmIRequest(), metadata=bearer(tokens.access_token))
    assert (me.principal.name, me.principal.role) == (ada, ROLE_OPERATOR)
    assert me.principal.kind == PRINCIPAL_KIND_USER
    assert me.principal == response.principal
    assert me.principal.expire_time == tokens.access_expire_time
    assert tokens.access_expire_time.ToSeconds() < tokens.session_expire_time.ToSeconds()
    listed = await users.ListUsers(ListUsersRequest(), metadata=admin)
    assert [user.name for user in listed.users] == [ada]
    assert listed.users[0].HasField("last_login_time")


async def test_login_with_a_wrong_name_or_password_is_rejected(
    sessions: SessionServiceStub, ada: str
) -> None:
    for username, password, tenant in (
        (ada, OTHER_PASSWORD, ""),
        ("bob", PASSWORD, ""),
        ("ADA", PASSWORD, ""),
        ("a\0b", PASSWORD, ""),
        ("x" * 1000, PASSWORD, ""),
        (ada, PASSWORD, "acme"),
        (ada, PASSWORD, "a\0b"),
    ):
        error = await rpc_error(
            sessions.Login(LoginRequest(username=username, password=password, tenant=tenant))
        )
        assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert error.message == "the tenant, the user name or the password is wrong"


async def test_login_without_arguments_is_invalid(sessions: SessionServiceStub) -> None:
    error = await rpc_error(sessions.Login(LoginRequest()))
    assert error.violations == {"username": "is required", "password": "is required"}
    error = await rpc_error(sessions.Login(LoginRequest(username="a", password="x" * 5000)))
    assert set(error.violations) == {"password"}


async def test_login_ignores_an_invalid_credential(sessions: SessionServiceStub, ada: str) -> None:
    await sessions.Login(LoginRequest(username=ada, password=PASSWORD), metadata=bearer("expired"))


async def test_failed_logins_are_throttled(sessions: SessionServiceStub, ada: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        while True:
            error = await rpc_error(
                sessions.Login(LoginRequest(username=ada, password=OTHER_PASSWORD))
            )
            if error.code is not grpc.StatusCode.UNAUTHENTICATED:
                break
    assert (error.code, error.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "LOGIN_THROTTLED",
    )
    assert error.details["RetryInfo"]["retryDelay"].endswith("s")
    # The correct password is throttled as well; otherwise, an attacker could recognize it.
    throttled = await rpc_error(sessions.Login(LoginRequest(username=ada, password=PASSWORD)))
    assert throttled.reason == "LOGIN_THROTTLED"


async def test_refresh_returns_new_tokens(
    access: AccessServiceStub, sessions: SessionServiceStub, ada: str
) -> None:
    first = await log_in(sessions)
    second = await refresh(sessions, first.refresh_token)
    third = await refresh(sessions, second.refresh_token)
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert first.session_expire_time == third.session_expire_time
    for tokens in (first, second, third):
        await access.WhoAmI(WhoAmIRequest(), metadata=bearer(tokens.access_token))


async def test_repeated_refresh_returns_the_same_refresh_token(
    sessions: SessionServiceStub, ada: str
) -> None:
    first = await log_in(sessions)
    refreshed = await asyncio.gather(*(refresh(sessions, first.refresh_token) for _ in range(8)))
    assert len({tokens.refresh_token for tokens in refreshed}) == 1
    await refresh(sessions, refreshed[0].refresh_token)


async def test_reused_refresh_token_ends_the_session(
    database: Database, access: AccessServiceStub, sessions: SessionServiceStub, ada: str
) -> None:
    stolen = await log_in(sessions)
    other = await log_in(sessions)
    newest = await refresh(sessions, stolen.refresh_token)
    await end_replay_window(database)
    error = await rpc_error(refresh(sessions, stolen.refresh_token))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert error.message == "the session has ended; log in again"
    assert (await rpc_error(refresh(sessions, newest.refresh_token))).reason == "UNAUTHENTICATED"
    assert (await until_rejected(access, newest)).reason == "UNAUTHENTICATED"
    # Another session of the same user continues.
    await refresh(sessions, other.refresh_token)
    await access.WhoAmI(WhoAmIRequest(), metadata=bearer(other.access_token))


async def test_refresh_token_replaced_twice_ends_the_session(
    sessions: SessionServiceStub, ada: str
) -> None:
    first = await log_in(sessions)
    second = await refresh(sessions, first.refresh_token)
    third = await refresh(sessions, second.refresh_token)
    await rpc_error(refresh(sessions, first.refresh_token))
    await rpc_error(refresh(sessions, third.refresh_token))


async def test_expired_session_cannot_be_refreshed(
    database: Database, sessions: SessionServiceStub, ada: str
) -> None:
    tokens = await log_in(sessions)
    async with database.statement() as conn:
        await conn.execute(text("UPDATE sessions SET expire_time = clock_timestamp()"))
    await rpc_error(refresh(sessions, tokens.refresh_token))
    # The next login removes it.
    await log_in(sessions)
    async with database.statement() as conn:
        assert await conn.scalar(text("SELECT count(*) FROM sessions")) == 1


async def test_invalid_refresh_token_is_rejected(sessions: SessionServiceStub) -> None:
    for token in ("", "x", "hrs_" + "A" * 86):
        assert (await rpc_error(refresh(sessions, token))).reason == "UNAUTHENTICATED"
        logout = sessions.Logout(LogoutRequest(refresh_token=token))
        assert (await rpc_error(logout)).reason == "UNAUTHENTICATED"


async def test_refresh_token_is_not_an_access_token(
    access: AccessServiceStub, sessions: SessionServiceStub, ada: str
) -> None:
    tokens = await log_in(sessions)
    await rpc_error(access.WhoAmI(WhoAmIRequest(), metadata=bearer(tokens.refresh_token)))
    await rpc_error(refresh(sessions, tokens.access_token))


async def test_logout_ends_calls_and_streams_of_the_session(
    access: AccessServiceStub, jobs: JobServiceStub, sessions: SessionServiceStub, ada: str
) -> None:
    tokens, other = await log_in(sessions), await log_in(sessions)
    stream = jobs.WatchJobs(WatchJobsRequest(), metadata=bearer(tokens.access_token))
    async with asyncio.timeout(TIMEOUT):
        first = await stream.read()
    for _ in range(2):
        await sessions.Logout(LogoutRequest(refresh_token=tokens.refresh_token))
    error = await rpc_error(read_to_end(stream))
    assert (error.code, error.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "CREDENTIAL_CHANGED",
    )
    assert error.metadata == {"cursor": first.cursor}
    assert (await until_rejected(access, tokens)).reason == "UNAUTHENTICATED"
    await rpc_error(refresh(sessions, tokens.refresh_token))
    await access.WhoAmI(WhoAmIRequest(), metadata=bearer(other.access_token))


async def read_to_end(stream: grpc.aio.UnaryStreamCall[object, object]) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_sessions_of_a_user_are_limited(
    database: Database, sessions: SessionServiceStub, ada: str
) -> None:
    first = await log_in(sessions)
    async with database.statement() as conn:
        await conn.execute(
            text("""
                INSERT INTO sessions (id, tenant, username, token_hash, address, expire_time)
                SELECT gen_random_uuid(), tenant, username, token_hash, address, expire_time
                FROM sessions, generate_series(1, :more)
            """),
            {"more": MAX_SESSIONS - 1},
        )
    await log_in(sessions)
    async with database.statement() as conn:
        assert await conn.scalar(text("SELECT count(*) FROM sessions")) == MAX_SESSIONS
    await rpc_error(refresh(sessions, first.refresh_token))


async def test_changed_password_ends_the_other_sessions(
    access: AccessServiceStub, sessions: SessionServiceStub, ada: str
) -> None:
    own, other = await log_in(sessions), await log_in(sessions)
    change = ChangePasswordRequest(current_password=PASSWORD, new_password=OTHER_PASSWORD)
    await sessions.ChangePassword(change, metadata=bearer(own.access_token))
    assert (await until_rejected(access, other)).reason == "UNAUTHENTICATED"
    await rpc_error(refresh(sessions, other.refresh_token))
    await refresh(sessions, own.refresh_token)
    await rpc_error(log_in(sessions))
    await log_in(sessions, password=OTHER_PASSWORD)


async def test_password_change_needs_the_current_password(
    sessions: SessionServiceStub, ada: str
) -> None:
    tokens = await log_in(sessions)
    change = ChangePasswordRequest(current_password=OTHER_PASSWORD, new_password="x7-new-secret!")
    error = await rpc_error(sessions.ChangePassword(change, metadata=bearer(tokens.access_token)))
    assert error.violations == {"current_password": "is not the password of the user"}
    for new in ("", "short", PASSWORD, "password1234"):
        change = ChangePasswordRequest(current_password=PASSWORD, new_password=new)
        error = await rpc_error(
            sessions.ChangePassword(change, metadata=bearer(tokens.access_token))
        )
        assert set(error.violations) == {"new_password"}
        assert new not in error.message or not new


async def test_api_key_cannot_change_a_password(
    sessions: SessionServiceStub, admin: Metadata
) -> None:
    change = ChangePasswordRequest(current_password=PASSWORD, new_password=OTHER_PASSWORD)
    error = await rpc_error(sessions.ChangePassword(change, metadata=admin))
    assert error.code is grpc.StatusCode.UNAUTHENTICATED


async def test_disabled_user_loses_calls_and_streams(
    jobs: JobServiceStub,
    sessions: SessionServiceStub,
    users: UserServiceStub,
    ada: str,
    admin: Metadata,
) -> None:
    tokens = await log_in(sessions)
    stream = jobs.WatchJobs(WatchJobsRequest(), metadata=bearer(tokens.access_token))
    async with asyncio.timeout(TIMEOUT):
        first = await stream.read()
    await users.UpdateUser(UpdateUserRequest(name=ada, disabled=True), metadata=admin)
    error = await rpc_error(read_to_end(stream))
    assert error.reason == "CREDENTIAL_CHANGED"
    assert error.metadata == {"cursor": first.cursor}
    call = users.ListUsers(ListUsersRequest(), metadata=bearer(tokens.access_token))
    assert (await rpc_error(call)).reason == "UNAUTHENTICATED"
    await rpc_error(refresh(sessions, tokens.refresh_token))
    await rpc_error(log_in(sessions))
    await users.UpdateUser(UpdateUserRequest(name=ada, disabled=False), metadata=admin)
    await rpc_error(refresh(sessions, tokens.refresh_token))
    await log_in(sessions)


async def test_new_role_takes_effect_with_the_next_token(
    access: AccessServiceStub,
    sessions: SessionServiceStub,
    users: UserServiceStub,
    ada: str,
    admin: Metadata,
) -> None:
    tokens = await log_in(sessions)
    changed = await users.UpdateUser(
        UpdateUserRequest(name=ada, role=ROLE_VIEWER, scope=ScopeEntries(entries=["queue:mail"])),
        metadata=admin,
    )
    assert (changed.user.role, changed.user.scope, changed.password) == (
        ROLE_VIEWER,
        ["queue:mail"],
        "",
    )
    assert (await until_rejected(access, tokens)).reason == "UNAUTHENTICATED"
    tokens = await refresh(sessions, tokens.refresh_token)
    me = await access.WhoAmI(WhoAmIRequest(), metadata=bearer(tokens.access_token))
    assert (me.principal.role, me.principal.scope) == (ROLE_VIEWER, ["queue:mail"])


async def test_admin_resets_a_password(
    sessions: SessionServiceStub, users: UserServiceStub, ada: str, admin: Metadata
) -> None:
    tokens = await log_in(sessions)
    request = UpdateUserRequest(name=ada, password="")
    password = (await users.UpdateUser(request, metadata=admin)).password
    await rpc_error(log_in(sessions))
    await rpc_error(refresh(sessions, tokens.refresh_token))
    await log_in(sessions, password=password)


async def test_tokens_of_a_deleted_user_stay_invalid(
    access: AccessServiceStub,
    sessions: SessionServiceStub,
    users: UserServiceStub,
    ada: str,
    admin: Metadata,
) -> None:
    tokens = await log_in(sessions)
    await users.DeleteUser(DeleteUserRequest(name=ada), metadata=admin)
    request = CreateUserRequest(name=ada, role=ROLE_ADMIN)
    password = (await users.CreateUser(request, metadata=admin)).password
    assert (await until_rejected(access, tokens)).reason == "UNAUTHENTICATED"
    await rpc_error(refresh(sessions, tokens.refresh_token))
    await log_in(sessions, password=password)


async def test_user_name_is_unique_and_valid(
    users: UserServiceStub, ada: str, admin: Metadata
) -> None:
    error = await rpc_error(users.CreateUser(CreateUserRequest(name=ada), metadata=admin))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCESS_CONFLICT")
    request = CreateUserRequest(name="a b", role=99, scope=["x"], password="short")
    error = await rpc_error(users.CreateUser(request, metadata=admin))
    assert set(error.violations) == {"name", "role", "scope", "password"}


async def test_unknown_user_is_not_found(users: UserServiceStub, admin: Metadata) -> None:
    for call in (
        users.UpdateUser(UpdateUserRequest(name="x"), metadata=admin),
        users.DeleteUser(DeleteUserRequest(name="x"), metadata=admin),
    ):
        error = await rpc_error(call)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "ACCESS_NOT_FOUND")


async def test_users_of_another_tenant_are_invisible(
    database: Database, users: UserServiceStub, admin: Metadata
) -> None:
    await add_tenant(database, "acme")
    platform = (*await caller(database, Role.PLATFORM), ("x-headrace-tenant", "default"))
    await users.CreateUser(CreateUserRequest(name="bob"), metadata=platform)
    async with database.statement() as conn:
        await conn.execute(text("UPDATE users SET tenant = 'acme' WHERE name = 'bob'"))
    assert not (await users.ListUsers(ListUsersRequest(), metadata=admin)).users
    error = await rpc_error(users.DeleteUser(DeleteUserRequest(name="bob"), metadata=admin))
    assert error.reason == "ACCESS_NOT_FOUND"


async def test_admin_cannot_raise_or_change_a_platform_user(
    database: Database, users: UserServiceStub, ada: str, admin: Metadata
) -> None:
    platform = await caller(database, Role.PLATFORM, "payload:read")
    request = CreateUserRequest(name="root", role=ROLE_PLATFORM)
    assert (
        await rpc_error(users.CreateUser(request, metadata=admin))
    ).reason == "PERMISSION_DENIED"
    await users.CreateUser(request, metadata=platform)
    for change in (
        users.UpdateUser(UpdateUserRequest(name="root", password=""), metadata=admin),
        users.UpdateUser(UpdateUserRequest(name="root", disabled=True), metadata=admin),
        users.DeleteUser(DeleteUserRequest(name="root"), metadata=admin),
        users.UpdateUser(UpdateUserRequest(name=ada, role=ROLE_PLATFORM), metadata=admin),
        users.UpdateUser(
            UpdateUserRequest(name=ada, scope=ScopeEntries(entries=["payload:read"])),
            metadata=admin,
        ),
    ):
        assert (await rpc_error(change)).reason == "PERMISSION_DENIED"


async def test_admin_without_payload_right_cannot_reset_password(
    database: Database, users: UserServiceStub, admin: Metadata
) -> None:
    platform = await caller(database, Role.PLATFORM, "payload:read")
    request = CreateUserRequest(name="eve", scope=["payload:read"])
    await users.CreateUser(request, metadata=platform)
    reset = users.UpdateUser(UpdateUserRequest(name="eve", password=""), metadata=admin)
    assert (await rpc_error(reset)).reason == "PERMISSION_DENIED"
    # An admin may remove rights.
    await users.UpdateUser(UpdateUserRequest(name="eve", disabled=True), metadata=admin)


async def test_operator_cannot_manage_users(
    sessions: SessionServiceStub, users: UserServiceStub, ada: str
) -> None:
    tokens = await log_in(sessions)
    error = await rpc_error(
        users.ListUsers(ListUsersRequest(), metadata=bearer(tokens.access_token))
    )
    assert error.metadata == {"right": "access:manage"}


async def test_users_are_listed_in_pages(users: UserServiceStub, admin: Metadata) -> None:
    names = ["a1", "b2", "c3"]
    for name in names:
        await users.CreateUser(CreateUserRequest(name=name), metadata=admin)
    seen, token = [], ""
    while True:
        page = await users.ListUsers(
            ListUsersRequest(page_size=2, page_token=token), metadata=admin
        )
        seen.append([user.name for user in page.users])
        token = page.next_page_token
        if not token:
            break
    assert seen == [["a1", "b2"], ["c3"]]


async def test_login_in_a_suspended_tenant_is_rejected(
    database: Database, sessions: SessionServiceStub, ada: str
) -> None:
    async with database.statement() as conn:
        await conn.execute(text("UPDATE tenants SET state = 'suspended'"))
    error = await rpc_error(log_in(sessions))
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_SUSPENDED")
    # Only a caller with the correct password receives the tenant's state.
    rejected_login = await rpc_error(log_in(sessions, password=OTHER_PASSWORD))
    assert rejected_login.reason == "UNAUTHENTICATED"


async def test_logins_and_changes_are_audited(
    database: Database,
    sessions: SessionServiceStub,
    users: UserServiceStub,
    ada: str,
    admin: Metadata,
) -> None:
    await rpc_error(log_in(sessions, password=OTHER_PASSWORD))
    stolen = await log_in(sessions)
    await refresh(sessions, stolen.refresh_token)
    await end_replay_window(database)
    await rpc_error(refresh(sessions, stolen.refresh_token))
    other = await log_in(sessions)
    await sessions.Logout(LogoutRequest(refresh_token=other.refresh_token))
    await users.DeleteUser(DeleteUserRequest(name=ada), metadata=admin)

    async def read(tenant: str) -> list[tuple[str, str, str, bool]]:
        async with database.statement() as conn:
            rows = await conn.execute(
                text("""
                    SELECT method, kind, target, allowed FROM audit_log
                    WHERE tenant = :tenant ORDER BY seq
                """),
                {"tenant": tenant},
            )
        return [(row.method, row.kind, row.target, row.allowed) for row in rows]

    assert await read("default") == [
        ("UserService/CreateUser", "api_key", "user ada", True),
        ("SessionService/Login", "user", "user ada", True),
        ("SessionService/RefreshSession", "user", "user ada", False),
        ("SessionService/Login", "user", "user ada", True),
        ("SessionService/Logout", "user", "user ada", True),
        ("UserService/DeleteUser", "api_key", "user ada", True),
    ]

    # A background task writes denied calls.
    async def is_written() -> bool:
        return await read("") == [("SessionService/Login", "anonymous", "user ada", False)]

    await until(is_written)


async def test_store_and_messages_contain_no_secret(
    database: Database, sessions: SessionServiceStub, ada: str
) -> None:
    tokens = await log_in(sessions)
    async with database.statement() as conn:
        rows = [
            *await conn.execute(text("SELECT users::text FROM users")),
            *await conn.execute(text("SELECT sessions::text FROM sessions")),
        ]
    stored = " ".join(row[0] for row in rows)
    assert PASSWORD not in stored
    assert tokens.refresh_token not in stored


def test_each_secret_field_is_marked_as_sensitive() -> None:
    secret = {"password", "current_password", "new_password", "access_token", "refresh_token"}
    for file in (sessions_pb2.DESCRIPTOR, users_pb2.DESCRIPTOR):
        for message in file.message_types_by_name.values():
            for field in message.fields:
                assert field.GetOptions().debug_redact == (field.name in secret), field.full_name
