"""`headrace subscription create`, `list`, `get`, `delete` and `ack`"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from cyclopts import Parameter

from headrace.cli.arguments import (
    BatchOption,
    LabelsOption,
    QueuesOption,
    StatesOption,
    TypesOption,
    labels,
    states,
)
from headrace.cli.session import Injected
from headrace.cli.subscription_text import subscription_view, subscriptions_table

_Name: TypeAlias = Annotated[str, Parameter(help="The subscription's name.")]


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
        Parameter(metavar="CURSOR", help="Begin where a watch ended; now unless given."),
    ] = None,
    session: Injected,
) -> None:
    label_map, state_list = labels(label), states(state)
    async with session.client() as client:
        made = await client.create_subscription(
            name,
            queues=queue or (),
            types=job_type or (),
            states=state_list,
            labels=label_map,
            batch_id=batch or "",
            cursor=since,
        )
    session.output.value(made, made.name)
    if not made.created:
        session.output.message("it was there before, with the same filter")


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
    session.output.message(f"subscription {name} is deleted")


async def ack(
    name: _Name,
    cursor: Annotated[
        str,
        Parameter(help="Of an event of its watch, or the oldest one that an error has named."),
    ],
    /,
    *,
    session: Injected,
) -> None:
    async with session.client() as client:
        await client.ack_subscription(name, cursor)
    session.output.message("acknowledged")
