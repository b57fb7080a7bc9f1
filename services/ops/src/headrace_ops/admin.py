"""The command `headrace admin bootstrap`, after its command line is parsed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.text import Text

from headrace.cli.output import Output
from headrace_core.domain.access import Role
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.bootstrap import (
    BootstrapRejected,
    bootstrap_key,
    bootstrap_user,
)
from headrace_core.store.sql.database import Database
from headrace_ops.exits import Exit, check_servers


def run(
    *,
    data: Path | None,
    output: Output,
    user: str,
    key: str | None,
    tenant: str,
    role: str,
    force: bool,
) -> int:
    """Create the first admin and print its secret. The arguments match the options of the command.

    Returns:
        The exit code.
    """

    def create(settings: Settings) -> str | BootstrapRejected:
        return asyncio.run(
            _create(settings, user=user, key=key, tenant=tenant, role=Role(role), force=force)
        )

    result = check_servers(create, data=data, output=output, json=False)
    if result is None:
        return Exit.UNKNOWN
    if isinstance(result, BootstrapRejected):
        output.errors.print(Text.assemble(("rejected: ", "bold red"), str(result)))
        return Exit.BROKEN
    created = f"the password of user {user}" if key is None else f"an API key of principal {key}"
    output.errors.print(Text(f"{created}, tenant {tenant}, role {role}; it cannot be shown again:"))
    output.line(result)
    return Exit.CLEAN


async def _create(
    settings: Settings, *, user: str, key: str | None, tenant: str, role: Role, force: bool
) -> str | BootstrapRejected:
    database = Database(settings, application="admin")
    try:
        async with database.transaction() as conn:
            if key is None:
                return await bootstrap_user(conn, tenant=tenant, name=user, role=role, force=force)
            return await bootstrap_key(conn, tenant=tenant, principal=key, role=role, force=force)
    except BootstrapRejected as error:
        return error
    finally:
        await database.close()
