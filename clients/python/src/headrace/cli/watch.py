"""`headrace watch`"""

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
from headrace.cli.exits import Exit
from headrace.cli.follow import MAX_JOBS, follow
from headrace.cli.patience import patience
from headrace.cli.session import Injected, Session, UsageError
from headrace.cli.stream import EventStream

if TYPE_CHECKING:
    from headrace import Client, Watch


async def command(
    *jobs: Annotated[
        str, Parameter(help="Jobs to follow to their ends, history included; none: all that match.")
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
            help="Resume where a watch ended; now unless given.",
        ),
    ] = None,
    timeout_wait: Annotated[DurationOption, Parameter(help="Watch no longer than this.")] = None,
    session: Injected,
) -> Exit:
    label_map, state_list = labels(label), states(state)
    if jobs and (queue or job_type or state or label or batch or since):
        raise UsageError("name either jobs or what they must match")
    if len(jobs) > MAX_JOBS:
        raise UsageError(f"name at most {MAX_JOBS} jobs; for more of them use --label or --batch")
    async with (
        session.client() as client,
        patience(timeout_wait, "the watch has reached --timeout-wait"),
    ):
        if jobs:
            return await _named(client, jobs, session)
        matching = client.watch(
            queues=queue or (),
            types=job_type or (),
            states=state_list,
            labels=label_map,
            batch_id=batch or "",
            cursor=since or "",
        )
        return await _matching(matching, session)


async def _named(client: Client, jobs: Sequence[str], session: Session) -> Exit:
    stream = EventStream(session.output)
    try:
        with stream:
            await follow(client, jobs, stream)
    finally:
        # The board erases its own lines when it stops, so this comes after it.
        if stream.board.counts:
            session.output.message(stream.summary())
    return Exit.OK if stream.all_succeeded else Exit.FAILED


async def _matching(watch: Watch, session: Session) -> Exit:
    message = session.output.message
    try:
        async with watch:
            message("watching; Ctrl-C ends it")
            stream = EventStream(session.output)
            try:
                with stream:
                    async for event in watch:
                        stream.show(event, cursor=watch.cursor)
            finally:
                # The board erases its own lines when it stops, so this comes after it.
                message(f"{stream.summary()}; resume with --since {watch.cursor}")
    except CursorExpired as error:
        message(f"what is kept begins at: --since {error.oldest_cursor}")
        raise
    return Exit.OK
