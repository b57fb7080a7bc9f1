"""The commands. This is imported whenever `headrace` runs, so it imports little."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

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
    """Audit a database against what must always hold.

    Every job is compared with its events,
    and rows that belong to nothing are found, and jobs that nobody moves on.
    It reads one snapshot of HEADRACE_DATABASE_URL, or of the database of `headrace up`.
    It changes nothing and holds nobody up, while the platform runs.
    It ends with 0 when all is well, 1 when something is broken, 2 when that cannot be told.

    Args:
        data: The folder of `headrace up`, whose database is audited; .headrace by default.
        json: Print the result as JSON, as -o json does.
        at_rest: Nothing runs on the database: do not ask whether jobs are moved on.
        patience: Seconds for which a job that waits for somebody may do so.
        limit: How many breaches of a kind are printed.

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
    """Look at the servers and what runs on them, and say what to do.

    It asks PostgreSQL and Redis of HEADRACE_DATABASE_URL and HEADRACE_REDIS_URL,
    or those of `headrace up`. It changes nothing, and prints no password.
    It ends with 0 when nothing is bad, 1 when something is, 2 when that cannot be told.

    Args:
        data: The folder of `headrace up`, whose servers are asked; .headrace by default.
        json: Print the findings as JSON, as -o json does.

    Returns:
        The exit code.
    """
    from headrace_ops.doctor import run  # noqa: PLC0415

    return run(data=data, output=session.output, json=json or session.output.format != "text")
