"""UserService: each method converts the request, calls its use case and converts the result."""

# ruff: noqa: N802 - the methods have the names of the contract

from __future__ import annotations

from headrace.v1 import user_service_pb2 as messages
from headrace_core.domain.user import User
from headrace_gateway.api.users import Users
from headrace_gateway.api.validation import Violations
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.access import read_role, role_value
from headrace_gateway.grpc.encode import timestamp
from headrace_gateway.grpc.pages import MessagePage


class UserServicer:
    """Manages the users of a tenant.

    Args:
        users: the use cases.
    """

    def __init__(self, users: Users) -> None:
        self._users = users

    async def CreateUser(
        self, request: messages.CreateUserRequest, call: Call
    ) -> messages.CreateUserResponse:
        """Create a user."""
        found = Violations()
        saved = await self._users.create(
            call,
            name=request.name,
            role=read_role(request.role, found),
            scope=request.scope,
            password=request.password,
            request_id=request.request_id,
            violations=found,
        )
        return messages.CreateUserResponse(user=_user_message(saved.user), password=saved.password)

    async def ListUsers(
        self, request: messages.ListUsersRequest, call: Call
    ) -> messages.ListUsersResponse:
        """List users in order of name."""
        page = MessagePage(_user_message)
        token = await self._users.list(call, page, size=request.page_size, token=request.page_token)
        return messages.ListUsersResponse(users=page.messages, next_page_token=token)

    async def UpdateUser(
        self, request: messages.UpdateUserRequest, call: Call
    ) -> messages.UpdateUserResponse:
        """Change a user."""
        found = Violations()
        saved = await self._users.update(
            call,
            request.name,
            role=read_role(request.role, found) if request.HasField("role") else None,
            scope=request.scope.entries if request.HasField("scope") else None,
            disabled=request.disabled if request.HasField("disabled") else None,
            password=request.password if request.HasField("password") else None,
            violations=found,
        )
        return messages.UpdateUserResponse(user=_user_message(saved.user), password=saved.password)

    async def DeleteUser(
        self, request: messages.DeleteUserRequest, call: Call
    ) -> messages.DeleteUserResponse:
        """Delete a user."""
        await self._users.delete(call, request.name)
        return messages.DeleteUserResponse()


def _user_message(user: User) -> messages.User:
    return messages.User(
        name=user.name,
        role=role_value(user.role),
        scope=user.scope.entries(),
        disabled=user.disabled,
        created_by=user.created_by,
        create_time=timestamp(user.create_time),
        last_login_time=timestamp(user.last_login_time),
        password_time=timestamp(user.password_time),
    )
