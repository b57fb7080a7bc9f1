"""`headrace cancel`"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from headrace.cli.each import each_job
from headrace.cli.exits import Exit
from headrace.cli.session import Injected


async def command(
    *jobs: Annotated[str, Parameter(help="The jobs' ids.")],
    session: Injected,
) -> Exit:
    async with session.client() as client:
        return await each_job(jobs, client.cancel, session)
