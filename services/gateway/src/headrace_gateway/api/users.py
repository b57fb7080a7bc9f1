"""The use cases of the users of a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog

from headrace_core.domain.access import Role, Scope
from headrace_core.domain.errors import AccessConflict, Violation
from headrace_core.domain.user import USER_NAME_RULE, User, is_user_name, new_password
from headrace_core.store.access.users import (
    create_user,
    delete_user,
    find_repeated_user,
    list_users,
    lock_user,
    update_user,
)
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.audit import record_audit
from headrace_gateway.access.password_threads import PasswordThreads
from headrace_gateway.api.access import check_grant, check_rank, read_scope, request_seed
from headrace_gateway.api.pages import Page, fill_page, split_page
from headrace_gateway.api.validation import (
    Violations,
    check_new_password,
    check_secret_request_id,
    page_limit,
)
from headrace_gateway.calls.call import Call
from headrace_gateway.tokens import decode_name_token, encode_name_token

_log = structlog.get_logger()

_USERS: Final = "users"


class SavedUser(NamedTuple):
    """A new or changed user, and its random password; empty if the caller chose the password."""

    user: User
    password: str

    def __repr__(self) -> str:
        return f"SavedUser(user={self.user.name!r})"


class Users:
    """The use cases of users.

    Args:
        database: the store of the users.
        installation: signs page tokens, and makes the passwords of repeatable requests.
        threads: hashes passwords.
        bus: wakes the gateways after each change.
    """

    def __init__(
        self,
        *,
        database: Database,
        installation: Installation,
        threads: PasswordThreads,
        bus: WakeBus,
    ) -> None:
        self._database = database
        self._installation = installation
        self._threads = threads
        self._bus = bus

    async def create(
        self,
        call: Call,
        *,
        name: str,
        role: Role,
        scope: Sequence[str] = (),
        password: str = "",
        request_id: str = "",
        violations: Sequence[Violation] = (),
    ) -> SavedUser:
        """Create a user in the tenant of the call.

        Args:
            call: the call.
            name: the name.
            role: the role.
            scope: the entries of the scope; see `parse_scope`.
            password: the password; empty for a random one.
            request_id: the idempotency key, which other callers must not guess; empty for none.
            violations: the violations that the transport found in the request.

        Raises:
            InvalidRequest: an argument is invalid.
            PermissionDenied: the user would have a right that the caller lacks.
            AccessConflict: the tenant already has a user with this name, and this request did not
                create the user, or created it too long ago.
        """
        found = Violations(violations)
        if not is_user_name(name):
            found.note("name", USER_NAME_RULE)
        parsed = read_scope(scope, found)
        if password:
            check_new_password("password", password, found, user=name)
        check_secret_request_id(request_id, found)
        found.check()
        check_grant(call, role, parsed)
        seed = request_seed(self._installation, call, request_id)
        random = "" if password else new_password(seed)
        password_hash = await self._threads.hash(password or random)
        try:
            async with self._database.transaction() as conn:
                user = await create_user(
                    conn,
                    tenant=call.tenant,
                    name=name,
                    role=role,
                    scope=parsed,
                    password_hash=password_hash,
                    created_by=call.principal.name,
                )
                await record_audit(conn, call, target=f"user {name}")
        except AccessConflict:
            repeated = None
            if request_id:
                repeated = await self._find_repeated(call, name, role, parsed, password or random)
            if repeated is None:
                raise
            return SavedUser(repeated, random)
        _log.info("user_created", tenant=call.tenant, user=name, role=role)
        return SavedUser(user, random)

    async def _find_repeated(
        self, call: Call, name: str, role: Role, scope: Scope, password: str
    ) -> User | None:
        """Return the user that an earlier attempt of the same request created."""
        async with self._database.statement() as conn:
            stored = await find_repeated_user(
                conn,
                tenant=call.tenant,
                name=name,
                role=role,
                scope=scope,
                created_by=call.principal.name,
            )
        # A random password matches only if it was made for the same request_id.
        if stored is None or not await self._threads.verify(stored[1], password, known=True):
            return None
        async with self._database.transaction() as conn:
            await record_audit(conn, call, target=f"user {name}")
        return stored[0]

    async def list(self, call: Call, page: Page[User], *, size: int = 0, token: str = "") -> str:
        """Fill a page with the users of the tenant, by name.

        Args:
            call: the call.
            page: receives the users.
            size: the maximum number of users on the page; 0 for the default.
            token: the token of the page; empty for the first one.

        Returns:
            The token of the next page; empty after the last one.

        Raises:
            InvalidRequest: the size or the token is invalid.
        """
        found = Violations()
        limit = page_limit(size, found)
        found.check()
        after = decode_name_token(self._installation, call.tenant, token, of=_USERS)

        async def read(after: str, wanted: int) -> tuple[Sequence[User], bool]:
            users = await list_users(conn, tenant=call.tenant, after=after, limit=wanted + 1)
            return split_page(users, wanted)

        async with self._database.statement() as conn:
            last = await fill_page(page, read, key=lambda user: user.name, after=after, size=limit)
        return encode_name_token(self._installation, call.tenant, last, of=_USERS) if last else ""

    async def update(
        self,
        call: Call,
        name: str,
        *,
        role: Role | None = None,
        scope: Sequence[str] | None = None,
        disabled: bool | None = None,
        password: str | None = None,
        violations: Sequence[Violation] = (),
    ) -> SavedUser:
        """Change a user. Arguments that are None keep their values.

        Args:
            call: the call.
            name: the name of the user.
            role: the new role.
            scope: the entries of the new scope; see `parse_scope`.
            disabled: whether logins are rejected.
            password: the new password; empty for a random one.
            violations: the violations that the transport found in the request.

        Raises:
            InvalidRequest: an argument is invalid.
            AccessNotFound: the tenant has no such user.
            PermissionDenied: the role of the user has a right that the caller's role lacks, or the
                user would have a right that the caller lacks.
        """
        found = Violations(violations)
        parsed = None if scope is None else read_scope(scope, found)
        if password:
            check_new_password("password", password, found, user=name)
        found.check()
        random = new_password() if password == "" else ""
        password_hash = None
        if password is not None:
            password_hash = await self._threads.hash(password or random)
        async with self._database.transaction() as conn:
            user = await lock_user(conn, tenant=call.tenant, name=name)
            check_rank(call, user.role, "to change a user")
            new_role = user.role if role is None else role
            new_scope = user.scope if parsed is None else parsed
            if role is not None or scope is not None or password is not None:
                # The caller could log in with a new password.
                check_grant(call, new_role, new_scope)
            user = await update_user(
                conn,
                user,
                role=new_role,
                scope=new_scope,
                disabled=user.disabled if disabled is None else disabled,
                password_hash=password_hash,
            )
            await record_audit(conn, call, target=f"user {name}")
        self._bus.publish(Topic.ACCESS)
        _log.info("user_updated", tenant=call.tenant, user=name)
        return SavedUser(user, random)

    async def delete(self, call: Call, name: str) -> None:
        """Delete a user and end its sessions.

        Raises:
            AccessNotFound: the tenant has no such user.
            PermissionDenied: the role of the user has a right that the caller's role lacks.
        """
        async with self._database.transaction() as conn:
            user = await lock_user(conn, tenant=call.tenant, name=name)
            check_rank(call, user.role, "to change a user")
            await delete_user(conn, user)
            await record_audit(conn, call, target=f"user {name}")
        self._bus.publish(Topic.ACCESS)
        _log.info("user_deleted", tenant=call.tenant, user=name)
