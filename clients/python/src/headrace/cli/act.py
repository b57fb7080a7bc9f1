"""`headrace cancel` and `headrace retry`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, TypeAlias

from cyclopts import Parameter
from rich.text import Text

from headrace import CallError, Job, Unavailable
from headrace.cli.completion import complete_jobs
from headrace.cli.job_ids import resolve_job_ids
from headrace.cli.output import summary
from headrace.cli.session import Exit, Injected, Session, exit_code_for
from headrace.cli.text import job_line
from headrace.cli.usage import UsageError

_JobIds: TypeAlias = Annotated[
    str,
    Parameter(name="JOBS", completer=complete_jobs, help="Job ids, or their starts."),
]
_Reason: TypeAlias = Annotated[
    str, Parameter(help="The reason, which the event of each job records.", show_default=False)
]


async def cancel(*jobs: _JobIds, reason: _Reason = "", session: Injected) -> Exit:
    async with session.client() as client:
        act = partial(client.cancel, reason=reason)
        return await _call_for_each(await resolve_job_ids(client, jobs), act, session)


async def retry(*jobs: _JobIds, reason: _Reason = "", session: Injected) -> Exit:
    async with session.client() as client:
        act = partial(client.retry, reason=reason)
        return await _call_for_each(await resolve_job_ids(client, jobs), act, session)


async def _call_for_each(
    job_ids: Sequence[str], act: Callable[[str], Awaitable[Job]], session: Session
) -> Exit:
    """Call `act` for each job; continue with the next job after an error.

    Returns:
        The exit code of the first error, or OK.

    Raises:
        UsageError: `job_ids` is empty.
        Unavailable: no gateway is reachable, so the other calls would fail too.
    """
    if not job_ids:
        raise UsageError("at least one job id is required")
    done: list[Job] = []
    code = Exit.OK
    try:
        for job_id in job_ids:
            try:
                done.append(await act(job_id))
            except Unavailable:
                raise
            except CallError as error:
                session.output.message(f"error: {error}")
                code = code or exit_code_for(error)
    finally:
        if done:
            session.output.values(
                [summary(job) for job in done], Text("\n").join(map(job_line, done))
            )
    return code
