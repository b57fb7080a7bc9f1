"""`headrace watch`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from headrace.cli.arguments import DurationOption, Repeated, labels, states
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
    queue: Annotated[Repeated, Parameter(help="Any of these queues; repeatable.")] = None,
    job_type: Annotated[
        Repeated, Parameter(name="--type", help="Any of these types; repeatable.")
    ] = None,
    state: Annotated[
        Repeated, Parameter(help="Events that lead to any of these states; repeatable.")
    ] = None,
    label: Annotated[
        Repeated, Parameter(name=["--label", "-l"], help="key=value; all of them; repeatable.")
    ] = None,
    batch: Annotated[str | None, Parameter(help="The jobs of this batch.")] = None,
    cursor: Annotated[
        str | None, Parameter(help="Resume where a watch ended; now unless given.")
    ] = None,
    timeout_wait: Annotated[DurationOption, Parameter(help="Watch no longer than this.")] = None,
    session: Injected,
) -> Exit:
    label_map, state_list = labels(label), states(state)
    if jobs and (queue or job_type or state or label or batch or cursor):
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
            cursor=cursor or "",
        )
        return await _matching(matching, session)


async def _named(client: Client, jobs: Sequence[str], session: Session) -> Exit:
    with EventStream(session.output) as stream:
        await follow(client, jobs, stream)
    session.output.message(stream.summary())
    return Exit.OK if stream.all_succeeded else Exit.FAILED


async def _matching(watch: Watch, session: Session) -> Exit:
    async with watch:
        session.output.message("watching; Ctrl-C ends it")
        with EventStream(session.output) as stream:
            try:
                async for event in watch:
                    stream.show(event, cursor=watch.cursor)
            finally:
                session.output.message(f"{stream.summary()}; resume with --cursor {watch.cursor}")
    return Exit.OK
