"""Doing the same to each of some jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from rich.text import Text

from headrace import CallError, Job, Unavailable
from headrace.cli.documents import summary
from headrace.cli.exits import Exit, exit_for
from headrace.cli.session import Session, UsageError
from headrace.cli.text import job_line


async def each_job(
    job_ids: Sequence[str], act: Callable[[str], Awaitable[Job]], session: Session
) -> Exit:
    """Acts on every job, also after one was refused.

    Returns the exit code of the first refusal, else OK.

    Raises:
        UsageError: no jobs were named.
        Unavailable: no gateway answers, so there is no use in going on.
    """
    if not job_ids:
        raise UsageError("name at least one job")
    done: list[Job] = []
    verdict = Exit.OK
    try:
        for job_id in job_ids:
            try:
                done.append(await act(job_id))
            except Unavailable:
                raise
            except CallError as error:
                session.output.message(f"error: {error}")
                verdict = verdict or exit_for(error)
    finally:
        if done:
            session.output.values(
                [summary(job) for job in done], Text("\n").join(map(job_line, done))
            )
    return verdict
