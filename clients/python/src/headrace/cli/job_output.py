"""`headrace output`"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter, validators

from headrace.cli.documents import document, json_line
from headrace.cli.session import Injected
from headrace.cli.text import plain


async def command(
    job: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    after_seq: Annotated[
        int,
        Parameter(validator=validators.Number(gte=0), help="Only pieces with a larger number."),
    ] = 0,
    session: Injected,
) -> None:
    output = session.output
    found = []
    async with session.client() as client:
        async for piece in client.output(job, after_seq=after_seq):
            if output.format == "text":
                content = piece.output
                output.line(plain(content if isinstance(content, str) else json_line(content)))
            elif output.format == "jsonl":
                output.line(json_line(piece))
            else:
                found.append(document(piece))
    if output.format == "json":
        output.value(found, "")
