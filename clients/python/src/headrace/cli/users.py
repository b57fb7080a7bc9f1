"""`headrace users create`, `list`, `update`, `reset-password` and `delete`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from cyclopts import Parameter

from headrace.cli.access import RoleName, RoleOption, ScopeOption
from headrace.cli.arguments import Flag
from headrace.cli.secret_input import read_secret
from headrace.cli.session import Injected
from headrace.cli.tables import users_table
from headrace.cli.usage import UsageError

_Name: TypeAlias = Annotated[str, Parameter(name="NAME", help="The name of the user.")]


async def create(
    name: _Name,
    /,
    *,
    role: RoleOption = "viewer",
    scope: ScopeOption = None,
    choose_password: Annotated[
        Flag,
        Parameter(help="Read the password from a prompt or stdin; without this, it is random."),
    ] = False,
    session: Injected,
) -> None:
    password = read_secret("Password") if choose_password else None
    async with session.client() as client:
        created = await client.create_user(name, role=role, scope=scope or (), password=password)
    session.output.value(created, created.password or created.user.name)
    note = "; store the password now, it cannot be shown again" if created.password else ""
    session.output.message(f"user {name} was created{note}")


async def list_all(*, session: Injected) -> None:
    async with session.client() as client:
        found = [user async for user in client.users()]
    session.output.values(found, users_table(found) if found else "no users")


async def update(
    name: _Name,
    /,
    *,
    role: Annotated[RoleName | None, Parameter(help="The new role.")] = None,
    scope: ScopeOption = None,
    no_scope: Annotated[Flag, Parameter(help="Remove the scope.")] = False,
    disable: Annotated[Flag, Parameter(help="Reject logins, and end the sessions.")] = False,
    enable: Annotated[Flag, Parameter(help="Accept logins again.")] = False,
    session: Injected,
) -> None:
    if disable and enable:
        raise UsageError("use either --disable or --enable, not both")
    if scope and no_scope:
        raise UsageError("use either --scope or --no-scope, not both")
    if role is None and not (scope or no_scope or disable or enable):
        raise UsageError(
            "nothing to change; use --role, --scope, --no-scope, --disable or --enable"
        )
    async with session.client() as client:
        user = await client.update_user(
            name,
            role=role,
            scope=() if no_scope else scope,
            disabled=disable if disable or enable else None,
        )
    session.output.value(user, users_table([user]))


async def reset_password(name: _Name, /, *, session: Injected) -> None:
    async with session.client() as client:
        password = await client.reset_password(name)
    session.output.value({"name": name, "password": password}, password)
    session.output.message(f"the sessions of {name} were ended; the password is shown only once")


async def delete(name: _Name, /, *, session: Injected) -> None:
    async with session.client() as client:
        await client.delete_user(name)
    session.output.message(f"user {name} was deleted")
