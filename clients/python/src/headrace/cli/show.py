"""The read-only commands: `get`, `output`, `logs`, `events`, `list`, `stats` and `handlers`."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from cyclopts import Parameter, validators
from rich.text import Text

from headrace import Job, PermissionDenied
from headrace.cli.arguments import (
    LabelsOption,
    QueuesOption,
    Repeated,
    TypesOption,
    job_filter,
    labels,
    states,
)
from headrace.cli.completion import complete_jobs, complete_states
from headrace.cli.job_ids import resolve_job_id
from headrace.cli.monitor import watch_overview
from headrace.cli.output import document, json_line, summary
from headrace.cli.session import Injected
from headrace.cli.tables import JobsTable, handlers_table, stats_view
from headrace.cli.text import history_text, job_view, log_text, plain

if TYPE_CHECKING:
    from headrace import Client

_MAX_PAGE_SIZE: Final = 1000

_JobId: TypeAlias = Annotated[
    str, Parameter(name="JOB", completer=complete_jobs, help="The job id, or its start.")
]


async def get(job: _JobId, /, *, session: Injected) -> None:
    async with session.client() as client:
        found = await client.get(await resolve_job_id(client, job))
        pieces = await _read_output(client, found)
    session.output.value({**document(found), "output": pieces}, job_view(found, pieces))


async def _read_output(client: Client, job: Job) -> list[Any]:
    """Return the output of a job; nothing if the credential lacks the right `payload:read`."""
    if not job.attempt:
        return []
    try:
        return [piece.output async for piece in client.output(job.id)]
    except PermissionDenied:
        if not job.withheld_fields:
            raise
        return []


async def output(
    job: _JobId,
    /,
    *,
    after_seq: Annotated[
        int,
        Parameter(
            validator=validators.Number(gte=0), help="Print only output with a higher number."
        ),
    ] = 0,
    session: Injected,
) -> None:
    writer = session.output
    found = []
    async with session.client() as client:
        job_id = await resolve_job_id(client, job)
        async for piece in client.output(job_id, after_seq=after_seq):
            if writer.format == "text":
                content = piece.output
                writer.line(plain(content if isinstance(content, str) else json_line(content)))
            elif writer.format == "jsonl":
                writer.line(json_line(piece))
            else:
                found.append(document(piece))
    if writer.format == "json":
        writer.value(found, "")


async def logs(
    job: _JobId,
    /,
    *,
    follow: Annotated[
        bool,
        Parameter(name=["--follow", "-f"], negative="", help="Print new lines until the job ends."),
    ] = False,
    after_position: Annotated[
        int,
        Parameter(
            validator=validators.Number(gte=0), help="Print only lines with a higher position."
        ),
    ] = 0,
    session: Injected,
) -> None:
    writer = session.output
    found = []
    async with session.client() as client:
        source = client.watch_logs if follow else client.logs
        job_id = await resolve_job_id(client, job)
        async with aclosing(source(job_id, after_position=after_position)) as lines:
            async for line in lines:
                if writer.format == "text":
                    writer.console.print(log_text(line))
                elif writer.format == "jsonl":
                    writer.line(json_line(line))
                else:
                    found.append(document(line))
    if writer.format == "json":
        writer.value(found, "")


async def events(
    job: _JobId,
    /,
    *,
    after_seq: Annotated[
        int,
        Parameter(
            validator=validators.Number(gte=0), help="Print only events with a higher number."
        ),
    ] = 0,
    session: Injected,
) -> None:
    async with session.client() as client:
        job_id = await resolve_job_id(client, job)
        found = [event async for event in client.events(job_id, after_seq=after_seq)]
    session.output.values(found, Text("\n").join(map(history_text, found)))


async def list_jobs(
    *,
    filter_text: Annotated[
        str | None,
        Parameter(
            name=["--filter", "-f"],
            help="Comparisons joined by AND, for example: state = FAILED AND priority > 10.",
        ),
    ] = None,
    state: Annotated[
        Repeated, Parameter(completer=complete_states, help="Match this state; repeatable.")
    ] = None,
    queue: QueuesOption = None,
    job_type: TypesOption = None,
    label: LabelsOption = None,
    limit: Annotated[
        int,
        Parameter(
            name=["--limit", "-n"],
            validator=validators.Number(gte=1),
            help="Maximum number of jobs.",
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
        # Request one extra job to detect whether more exist.
        pages = client.list(filter=query, page_size=min(limit + 1, _MAX_PAGE_SIZE))
        async with aclosing(pages) as jobs:
            async for job in jobs:
                more = len(found) == limit
                if more:
                    break
                found.append(job)
    session.output.values([summary(job) for job in found], JobsTable(found) if found else "no jobs")
    if more:
        session.output.message(f"there are more than {limit} jobs; use --limit to list more")


async def stats(
    *,
    watch: Annotated[
        bool, Parameter(negative="", help="Show counts, rates and workers live, until Ctrl-C.")
    ] = False,
    session: Injected,
) -> None:
    if watch:
        await watch_overview(session)
        return
    async with session.client() as client:
        found = await client.stats()
    session.output.value(found, stats_view(found))


async def handlers(*, session: Injected) -> None:
    async with session.client() as client:
        found = await client.handlers()
    text = handlers_table(found) if found else "no live worker has registered a job type"
    session.output.values(found, text)
