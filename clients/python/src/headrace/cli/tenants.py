"""`headrace tenants create`, `list`, `get`, `suspend`, `resume`, `delete`, `limit` and `usage`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Annotated, Final, TypeAlias

from cyclopts import Parameter

from headrace import Quotas
from headrace.cli.arguments import Flag, Repeated
from headrace.cli.session import Injected
from headrace.cli.tables import tenants_table, usage_table
from headrace.cli.text import tenant_view
from headrace.cli.usage import UsageError

_QUOTAS: Final = tuple(one.name for one in fields(Quotas))
# The value that removes a quota.
_NONE: Final = "none"

_Name: TypeAlias = Annotated[str, Parameter(name="NAME", help="The name of the tenant.")]
_OptionalName: TypeAlias = Annotated[
    str, Parameter(name="NAME", help="The name of the tenant; default: your own tenant.")
]
_QuotaOption: TypeAlias = Annotated[
    Repeated,
    Parameter(
        metavar="QUOTA=NUMBER",
        help=f"Set a quota, or remove it with QUOTA={_NONE}: {', '.join(_QUOTAS)}. Repeatable.",
    ),
]
_CeilingOption: TypeAlias = Annotated[
    Repeated,
    Parameter(
        metavar="QUOTA=NUMBER",
        help="Set the highest value that an admin of the tenant can choose. Repeatable.",
    ),
]


async def create(
    name: _Name,
    /,
    *,
    quota: _QuotaOption = None,
    ceiling: _CeilingOption = None,
    session: Injected,
) -> None:
    quotas, ceilings = _changed(Quotas(), quota), _changed(Quotas(), ceiling)
    async with session.client() as client:
        tenant = await client.create_tenant(name, quotas=quotas, ceilings=ceilings)
    session.output.value(tenant, tenant.name)


async def list_all(*, session: Injected) -> None:
    async with session.client() as client:
        found = [tenant async for tenant in client.tenants()]
    session.output.values(found, tenants_table(found) if found else "no tenants")


async def get(name: _OptionalName = "", /, *, session: Injected) -> None:
    async with session.client() as client:
        tenant = await client.tenant(name)
    session.output.value(tenant, tenant_view(tenant))


async def suspend(name: _Name, /, *, session: Injected) -> None:
    async with session.client() as client:
        await client.suspend_tenant(name)
    session.output.message(f"tenant {name} is suspended; its running jobs continue")


async def resume(name: _Name, /, *, session: Injected) -> None:
    async with session.client() as client:
        await client.resume_tenant(name)
    session.output.message(f"tenant {name} is active")


async def delete(
    name: _Name,
    /,
    *,
    yes: Annotated[
        Flag, Parameter(help="Confirm that the tenant and all its jobs are removed.")
    ] = False,
    session: Injected,
) -> None:
    if not yes:
        raise UsageError(
            f"this removes the tenant {name} with all its jobs and cannot be undone; add --yes to "
            "confirm"
        )
    async with session.client() as client:
        await client.delete_tenant(name)
    session.output.message(
        f"tenant {name} is being deleted; headrace tenants get {name} shows the progress"
    )


async def limit(
    name: _OptionalName = "",
    /,
    *,
    quota: _QuotaOption = None,
    ceiling: _CeilingOption = None,
    session: Injected,
) -> None:
    if not quota and not ceiling:
        raise UsageError("nothing to change; use --quota or --ceiling")
    _changed(Quotas(), quota)
    _changed(Quotas(), ceiling)
    async with session.client() as client:
        tenant = await client.tenant(name)
        tenant = await client.set_quotas(
            name,
            quotas=_changed(tenant.quotas, quota) if quota else None,
            ceilings=_changed(tenant.ceilings, ceiling) if ceiling else None,
        )
    session.output.value(tenant, tenant_view(tenant))


async def usage(name: _OptionalName = "", /, *, session: Injected) -> None:
    async with session.client() as client:
        used = await client.usage(name)
    session.output.value(used, usage_table(used))


def _changed(quotas: Quotas, pairs: Sequence[str] | None) -> Quotas:
    """Return quotas with the changes of `QUOTA=NUMBER` pairs.

    Raises:
        UsageError: a pair is malformed.
    """
    changes: dict[str, int | None] = {}
    for pair in pairs or ():
        name, _, value = pair.partition("=")
        if name not in _QUOTAS:
            raise UsageError(f'"{name}" is not a quota; use one of {", ".join(_QUOTAS)}')
        if value != _NONE and not value.isdecimal():
            raise UsageError(f'"{pair}" has no number; use {name}=1000 or {name}={_NONE}')
        changes[name] = None if value == _NONE else int(value)
    return replace(quotas, **changes)
