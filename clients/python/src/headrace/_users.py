"""The client's calls that manage users."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from headrace._calls import Calls, random_key
from headrace._convert import from_user, to_role
from headrace._headers import Secret
from headrace.access import NewUser, Role, User
from headrace.v1 import user_service_pb2


class UserCalls:
    """The client's calls for the users of its tenant: people who log in with a password."""

    _calls: Calls

    async def create_user(
        self,
        name: str,
        *,
        role: Role | str = Role.VIEWER,
        scope: Iterable[str] = (),
        password: str | None = None,
        request_id: str | None = None,
    ) -> NewUser:
        """Create a user.

        Args:
            name: the name, unique within the tenant.
            role: the role; the user cannot have rights that the caller lacks.
            scope: the entries of the scope; see `create_api_key`.
            password: the password, 12 to 256 characters. None: a random password, which the result
                contains.
            request_id: the idempotency key: 16 to 128 characters that are hard to guess. For 10
                minutes, a repeated call with the same key and arguments returns the same password.
                None: a random key.

        Raises:
            ValueError: `role` is not a role.
            InsecureConnection: the password would be sent to another machine in plaintext.
            AccessConflict: the user already exists.
        """
        # An error report may contain local variables.
        password = Secret(password or "")
        response = await self._calls.unary_with_secret(
            "the password",
            lambda gateway: gateway.users.CreateUser,
            user_service_pb2.CreateUserRequest(
                name=name,
                role=to_role(role),
                scope=scope,
                password=password,
                request_id=request_id or random_key(),
            ),
        )
        return NewUser(user=from_user(response.user), password=response.password)

    async def users(self) -> AsyncGenerator[User, None]:
        """Yield the users of the tenant by name."""
        request = user_service_pb2.ListUsersRequest()
        while True:
            page = await self._calls.unary(lambda gateway: gateway.users.ListUsers, request)
            for user in page.users:
                yield from_user(user)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def update_user(
        self,
        name: str,
        *,
        role: Role | str | None = None,
        scope: Iterable[str] | None = None,
        disabled: bool | None = None,
    ) -> User:
        """Change a user. Arguments that are None keep their values.

        The change takes effect within five seconds, open streams included.

        Args:
            name: the name of the user.
            role: the new role.
            scope: the new scope; an empty one removes the scope.
            disabled: whether logins are rejected. Disabling a user ends its sessions.

        Raises:
            ValueError: `role` is not a role.
            AccessNotFound: the user does not exist.
        """
        request = user_service_pb2.UpdateUserRequest(name=name)
        if role is not None:
            request.role = to_role(role)
        if scope is not None:
            request.scope.SetInParent()
            request.scope.entries.extend(scope)
        if disabled is not None:
            request.disabled = disabled
        response = await self._calls.unary(lambda gateway: gateway.users.UpdateUser, request)
        return from_user(response.user)

    async def reset_password(self, name: str) -> str:
        """Set a random password, end the sessions of the user, and return the password.

        Raises:
            AccessNotFound: the user does not exist.
        """
        request = user_service_pb2.UpdateUserRequest(name=name, password="")
        response = await self._calls.unary(lambda gateway: gateway.users.UpdateUser, request)
        return response.password

    async def delete_user(self, name: str) -> None:
        """Delete a user and end its sessions.

        Raises:
            AccessNotFound: the user does not exist.
        """
        request = user_service_pb2.DeleteUserRequest(name=name)
        await self._calls.unary(lambda gateway: gateway.users.DeleteUser, request)
