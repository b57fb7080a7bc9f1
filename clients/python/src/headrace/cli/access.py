"""`headrace whoami`, `headrace watch-token`, and `headrace keys create`, `list` and `revoke`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from headrace import CallError, Unavailable
from headrace.cli.arguments import (
    BatchOption,
    DurationOption,
    Flag,
    LabelsOption,
    MomentOrDurationOption,
    Repeated,
    labels,
)
from headrace.cli.session import Exit, Injected, exit_code_for
from headrace.cli.tables import keys_table
from headrace.cli.text import principal_view
from headrace.cli.usage import UsageError

RoleName: TypeAlias = Literal["viewer", "operator", "admin", "platform"]
RoleOption: TypeAlias = Annotated[
    RoleName, Parameter(help="Role; each has the rights of the previous one.")
]
ScopeOption: TypeAlias = Annotated[
    Repeated,
    Parameter(
        help="Narrow the role: queue:NAME, type:NAME, label:KEY=VALUE, batch:ID, job:ID, or a "
        "right such as jobs:read; payload:read adds access to payloads. Repeatable."
    ),
]


async def whoami(*, session: Injected) -> None:
    async with session.client() as client:
        principal = await client.whoami()
    session.output.value(principal, principal_view(principal))


async def mint_watch_token(
    *,
    job: Annotated[str, Parameter(help="Allow only this job.")] = "",
    batch: BatchOption = None,
    label: LabelsOption = None,
    include_payload: Annotated[
        Flag, Parameter(help="Also allow payloads, results, output and error messages.")
    ] = False,
    lifetime: Annotated[
        DurationOption, Parameter(help="Time until the token expires, at most 1h; default 15m.")
    ] = None,
    session: Injected,
) -> None:
    label_map = labels(label)
    async with session.client() as client:
        minted = await client.mint_watch_token(
            job_id=job,
            batch_id=batch or "",
            labels=label_map,
            include_payload=include_payload,
            lifetime=lifetime,
        )
    session.output.value(minted, minted.token)


async def create_key(
    principal: Annotated[
        str,
        Parameter(name="PRINCIPAL", help="The name of the service or person that uses the key."),
    ],
    /,
    *,
    role: RoleOption = "viewer",
    scope: ScopeOption = None,
    expires: Annotated[
        MomentOrDurationOption, Parameter(help="Time or duration after which the key expires.")
    ] = None,
    session: Injected,
) -> None:
    async with session.client() as client:
        created = await client.create_api_key(
            principal, role=role, scope=scope or (), expire_time=expires
        )
    session.output.value(created, created.secret)
    session.output.message(
        f"key {created.api_key.id} was created; store the secret now, it cannot be shown again"
    )


async def list_keys(*, session: Injected) -> None:
    async with session.client() as client:
        found = [key async for key in client.api_keys()]
    now = datetime.now(UTC)
    session.output.values(found, keys_table(found, now) if found else "no keys")


async def revoke_keys(
    *keys: Annotated[str, Parameter(name="KEYS", help="Ids of keys, without the secrets.")],
    session: Injected,
) -> Exit:
    if not keys:
        raise UsageError("at least one key id is required")
    code = Exit.OK
    async with session.client() as client:
        for key in keys:
            try:
                await client.revoke_api_key(key)
            except Unavailable:
                raise
            except CallError as error:
                session.output.message(f"error: {error}")
                code = code or exit_code_for(error)
            else:
                session.output.message(f"key {key} was revoked")
    return code
