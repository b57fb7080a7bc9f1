"""`headrace get`"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from headrace.cli.documents import document
from headrace.cli.session import Injected
from headrace.cli.text import job_view


async def command(
    job: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    session: Injected,
) -> None:
    async with session.client() as client:
        found = await client.get(job)
        pieces = [piece.output async for piece in client.output(job)] if found.attempt else []
    session.output.value({**document(found), "output": pieces}, job_view(found, pieces))
