"""The commands. Every run of `headrace` imports this module, so it imports little."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter, validators

from headrace.cli.session import Injected

_Data = Annotated[Path | None, Parameter(env_var="HEADRACE_DATA")]


def verify(
    *,
    data: _Data = None,
    json: bool = False,
    at_rest: bool = False,
    patience: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 20.0,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 20,
    session: Injected,
) -> int:
    """Audit the database against the invariants.

    The audit compares every job with its events,
    and finds orphaned rows and stuck jobs.
    It reads one snapshot of HEADRACE_DATABASE_URL, or of the database of `headrace up`.
    It changes and blocks nothing, so you can run it while the platform is running.
    Exit codes: 0 all invariants hold, 1 an invariant is broken, 2 the audit failed.

    Args:
        data: Data folder of the `headrace up` to audit; default .headrace.
        json: Print the result as JSON, like -o json.
        at_rest: Do not search for stuck jobs; use this while no service is running.
        patience: Seconds a job may wait before it counts as stuck.
        limit: Maximum number of printed breaches of each kind.

    Returns:
        The exit code.
    """
    from headrace_ops.verify import run  # noqa: PLC0415

    return run(
        data=data,
        output=session.output,
        json=json or session.output.format != "text",
        at_rest=at_rest,
        patience=patience,
        limit=limit,
    )


def doctor(*, data: _Data = None, json: bool = False, session: Injected) -> int:
    """Check the servers and services, and print advice.

    The command checks PostgreSQL and Redis at HEADRACE_DATABASE_URL and HEADRACE_REDIS_URL,
    or the servers of `headrace up`. It changes nothing, and prints no password.
    Exit codes: 0 no problem, 1 a problem was found, 2 the check failed.

    Args:
        data: Data folder of the `headrace up` to check; default .headrace.
        json: Print the findings as JSON, like -o json.

    Returns:
        The exit code.
    """
    from headrace_ops.doctor import run  # noqa: PLC0415

    return run(data=data, output=session.output, json=json or session.output.format != "text")


admin = App(name="admin", help="Create the first admin, with access to the database.")


@admin.command(help_epilogue="")
def bootstrap(
    *,
    user: str = "admin",
    key: str | None = None,
    tenant: str = "default",
    role: Literal["admin", "platform"] = "platform",
    force: bool = False,
    data: _Data = None,
    session: Injected,
) -> int:
    """Create the first admin of a tenant, and print the password or the API key.

    The command writes to the database of HEADRACE_DATABASE_URL, or of `headrace up`.
    The secret is the only line on stdout, and cannot be read again.
    Exit codes: 0 created, 1 rejected, 2 the database cannot be used.

    Args:
        user: Name of the user to create.
        key: Create an API key of this principal instead of a user.
        tenant: Tenant of the admin.
        role: Admin of the tenant, or of the platform with all its tenants.
        force: Continue if the tenant has an admin; an existing user gets a new password.
        data: Data folder of the `headrace up` to use; default .headrace.

    Returns:
        The exit code.
    """
    from headrace_ops.admin import run  # noqa: PLC0415

    return run(
        data=data,
        output=session.output,
        user=user,
        key=key,
        tenant=tenant,
        role=role,
        force=force,
    )
