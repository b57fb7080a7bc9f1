"""`headrace events`"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter, validators
from rich.text import Text

from headrace.cli.session import Injected
from headrace.cli.text import history_text


async def command(
    job: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    after_seq: Annotated[
        int,
        Parameter(validator=validators.Number(gte=0), help="Only events with a larger number."),
    ] = 0,
    session: Injected,
) -> None:
    async with session.client() as client:
        found = [event async for event in client.events(job, after_seq=after_seq)]
    session.output.values(found, Text("\n").join(map(history_text, found)))
