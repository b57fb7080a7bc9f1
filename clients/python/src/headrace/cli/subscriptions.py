"""`headrace subscription create`, `list`, `get`, `delete`, `watch` and `ack`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from cyclopts import Parameter

from headrace import CallError, CursorExpired
from headrace.cli.arguments import (
    BatchOption,
    DurationOption,
    Flag,
    LabelsOption,
    QueuesOption,
    StatesOption,
    TypesOption,
    labels,
    states,
)
from headrace.cli.session import Injected, Session, time_limit
from headrace.cli.stream import EventWriter
from headrace.cli.tables import subscriptions_table
from headrace.cli.text import subscription_view

if TYPE_CHECKING:
    from headrace import SubscriptionWatch

# Longest wait after Ctrl-C for the acknowledgment of the written events, in seconds.
_LAST_ACK_S: Final = 2.0

_Name: TypeAlias = Annotated[str, Parameter(name="NAME", help="The subscription's name.")]


async def create(
    name: _Name,
    /,
    *,
    queue: QueuesOption = None,
    job_type: TypesOption = None,
    state: StatesOption = None,
    label: LabelsOption = None,
    batch: BatchOption = None,
    since: Annotated[
        str | None,
        Parameter(metavar="CURSOR", help="Start after this cursor of a watch; default: now."),
    ] = None,
    session: Injected,
) -> None:
    label_map, state_list = labels(label), states(state)
    async with session.client() as client:
        subscription = await client.create_subscription(
            name,
            queues=queue or (),
            types=job_type or (),
            states=state_list,
            labels=label_map,
            batch_id=batch or "",
            cursor=since,
        )
    session.output.value(subscription, subscription.name)
    if not subscription.created:
        session.output.message(f"subscription {name} already exists with the same filter")


async def list_all(*, session: Injected) -> None:
    async with session.client() as client:
        found = [subscription async for subscription in client.subscriptions()]
    session.output.values(found, subscriptions_table(found) if found else "no subscriptions")


async def get(name: _Name, /, *, session: Injected) -> None:
    async with session.client() as client:
        found = await client.subscription(name)
    session.output.value(found, subscription_view(found))


async def delete(name: _Name, /, *, session: Injected) -> None:
    async with session.client() as client:
        await client.delete_subscription(name)
    session.output.message(f"subscription {name} was deleted")


async def watch(
    name: _Name,
    /,
    *,
    consumer: Annotated[
        str | None,
        Parameter(
            help="Name of this consumer; a later consumer with the same name replaces it. "
            "Default: a unique name."
        ),
    ] = None,
    no_ack: Annotated[
        Flag, Parameter(help="Acknowledge nothing: the server sends all events again later.")
    ] = False,
    timeout_wait: Annotated[
        DurationOption, Parameter(help="Stop receiving after this duration.")
    ] = None,
    session: Injected,
) -> None:
    message = session.output.message
    async with (
        session.client() as client,
        time_limit(timeout_wait, "the watch has reached --timeout-wait"),
    ):
        try:
            async with client.subscribe(name, consumer=consumer) as events:
                if events.standby:
                    message(
                        "waiting on standby while another consumer receives events; press Ctrl-C "
                        "to stop"
                    )
                else:
                    message("receiving; press Ctrl-C to stop")
                await _show_events(events, session, acknowledge=not no_ack)
        except CursorExpired as error:
            message(
                "some events of the subscription have been deleted; to skip them and continue:\n"
                f"  headrace subscription ack {name} {error.oldest_cursor}"
            )
            raise


async def ack(
    name: _Name,
    cursor: Annotated[
        str,
        Parameter(help="Cursor from the output of watch, or the oldest cursor from an error."),
    ],
    /,
    *,
    session: Injected,
) -> None:
    async with session.client() as client:
        await client.ack_subscription(name, cursor)
    session.output.message("acknowledged")


async def _show_events(events: SubscriptionWatch, session: Session, *, acknowledge: bool) -> None:
    complete = True
    stream = EventWriter(session.output)
    try:
        with stream:
            async for event in events:
                complete = False
                # `show` flushes the line before the event is acknowledged.
                stream.show(event, cursor=events.cursor)
                if acknowledge:
                    complete = await events.ack()
    except asyncio.CancelledError:
        # Ctrl-C interrupts only waiting, so all yielded events are written.
        if acknowledge and not complete:
            with suppress(CallError, TimeoutError):
                async with asyncio.timeout(_LAST_ACK_S):
                    complete = await events.ack()
        raise
    finally:
        # Print the summary after the board has erased its lines.
        rest = "all acknowledged" if complete else "the server sends unacknowledged events again"
        session.output.message(f"{stream.summary()}; {rest}")
