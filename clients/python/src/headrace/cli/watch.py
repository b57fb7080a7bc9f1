"""`headrace watch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from headrace import CursorExpired
from headrace.cli.arguments import (
    BatchOption,
    DurationOption,
    LabelsOption,
    QueuesOption,
    StatesOption,
    TypesOption,
    labels,
    states,
)
from headrace.cli.completion import complete_jobs
from headrace.cli.job_ids import resolve_job_ids
from headrace.cli.session import Exit, Injected, Session, time_limit
from headrace.cli.stream import MAX_WATCHED_JOBS, EventWriter, follow
from headrace.cli.usage import UsageError

if TYPE_CHECKING:
    from headrace import Client, Watch


async def command(
    *jobs: Annotated[
        str,
        Parameter(
            name="JOBS",
            completer=complete_jobs,
            help="Job ids: follow these jobs from their first event until they end. "
            "Default: follow all matching jobs.",
        ),
    ],
    queue: QueuesOption = None,
    job_type: TypesOption = None,
    state: StatesOption = None,
    label: LabelsOption = None,
    batch: BatchOption = None,
    since: Annotated[
        str | None,
        Parameter(
            name=["--since", "--cursor"],
            metavar="CURSOR",
            help="Resume after this cursor of an earlier watch; default: now.",
        ),
    ] = None,
    timeout_wait: Annotated[
        DurationOption, Parameter(help="Stop watching after this duration.")
    ] = None,
    session: Injected,
) -> Exit:
    label_map, state_list = labels(label), states(state)
    if jobs and (queue or job_type or state or label or batch or since):
        raise UsageError("use either job ids or filters, not both")
    if len(jobs) > MAX_WATCHED_JOBS:
        raise UsageError(
            f"{len(jobs)} job ids; the limit is {MAX_WATCHED_JOBS}. "
            "Use --label or --batch for more jobs"
        )
    async with (
        session.client() as client,
        time_limit(timeout_wait, "the watch has reached --timeout-wait"),
    ):
        if jobs:
            job_ids = await resolve_job_ids(client, jobs)
            return await _watch_named_jobs(client, job_ids, session)
        matching = client.watch(
            queues=queue or (),
            types=job_type or (),
            states=state_list,
            labels=label_map,
            batch_id=batch or "",
            cursor=since or "",
        )
        return await _watch_matching_jobs(matching, session)


async def _watch_named_jobs(client: Client, jobs: Sequence[str], session: Session) -> Exit:
    stream = EventWriter(session.output)
    try:
        with stream:
            await follow(client, jobs, stream)
    finally:
        # Print the summary after the board has erased its lines.
        if stream.board.counts:
            session.output.message(stream.summary())
    return Exit.OK if stream.all_succeeded else Exit.FAILED


async def _watch_matching_jobs(watch: Watch, session: Session) -> Exit:
    message = session.output.message
    try:
        async with watch:
            message("watching; press Ctrl-C to stop")
            stream = EventWriter(session.output)
            try:
                with stream:
                    async for event in watch:
                        stream.show(event, cursor=watch.cursor)
            finally:
                # Print the summary after the board has erased its lines.
                message(f"{stream.summary()}; resume with --since {watch.cursor}")
    except CursorExpired as error:
        message(f"to start at the oldest stored event: --since {error.oldest_cursor}")
        raise
    return Exit.OK
