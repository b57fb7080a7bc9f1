"""`headrace list`"""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Final

from cyclopts import Parameter, validators

from headrace import Job
from headrace.cli.arguments import Repeated, labels, states
from headrace.cli.documents import summary
from headrace.cli.filters import job_filter
from headrace.cli.session import Injected
from headrace.cli.text import JobsTable

_PAGE: Final = 1000


async def command(
    *,
    filter_text: Annotated[
        str | None,
        Parameter(
            name=["--filter", "-f"],
            help="Comparisons joined by AND, such as: state = FAILED AND priority > 10.",
        ),
    ] = None,
    state: Annotated[Repeated, Parameter(help="Any of these states; repeatable.")] = None,
    queue: Annotated[Repeated, Parameter(help="Any of these queues; repeatable.")] = None,
    job_type: Annotated[
        Repeated, Parameter(name="--type", help="Any of these types; repeatable.")
    ] = None,
    label: Annotated[
        Repeated, Parameter(name=["--label", "-l"], help="key=value; all of them; repeatable.")
    ] = None,
    limit: Annotated[
        int,
        Parameter(
            name=["--limit", "-n"], validator=validators.Number(gte=1), help="At most so many."
        ),
    ] = 100,
    session: Injected,
) -> None:
    query = job_filter(
        filter_text or "",
        states=states(state),
        queues=queue or (),
        types=job_type or (),
        labels=labels(label),
    )
    found: list[Job] = []
    more = False
    async with session.client() as client:
        # One more than asked tells whether there are more.
        pages = client.list(filter=query, page_size=min(limit + 1, _PAGE))
        async with aclosing(pages) as jobs:
            async for job in jobs:
                more = len(found) == limit
                if more:
                    break
                found.append(job)
    session.output.values([summary(job) for job in found], JobsTable(found) if found else "no jobs")
    if more:
        session.output.message(f"there are more than these {limit}; see --limit")
