"""`headrace certificates bind`, `list` and `unbind`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from cyclopts import Parameter

from headrace.cli.access import RoleOption, ScopeOption
from headrace.cli.session import Injected
from headrace.cli.tables import certificate_bindings_table

_San: TypeAlias = Annotated[
    str, Parameter(name="NAME", help="The subject alternative name: uri:URI or dns:HOST.")
]


async def bind(
    san: _San,
    principal: Annotated[
        str, Parameter(name="PRINCIPAL", help="The principal that the certificates identify.")
    ],
    /,
    *,
    role: RoleOption = "viewer",
    scope: ScopeOption = None,
    session: Injected,
) -> None:
    async with session.client() as client:
        binding = await client.create_certificate_binding(
            san, principal, role=role, scope=scope or ()
        )
    session.output.value(binding, certificate_bindings_table([binding]))


async def list_all(*, session: Injected) -> None:
    async with session.client() as client:
        found = [binding async for binding in client.certificate_bindings()]
    session.output.values(
        found, certificate_bindings_table(found) if found else "no certificate bindings"
    )


async def unbind(san: _San, /, *, session: Injected) -> None:
    async with session.client() as client:
        await client.delete_certificate_binding(san)
    session.output.message(f"certificates with the name {san} are no longer accepted")
