"""Subscriptions in the store, with their streams and acknowledgements."""

from __future__ import annotations

from typing import Any

from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.query import JobFilter
from headrace_core.domain.subscription import Subscription
from headrace_core.store.event_log import Place, read_end
from headrace_core.store.sql.database import Database
from headrace_core.store.subscriptions import (
    acknowledge,
    create_subscription,
    delete_subscription,
    get_subscription,
)
from headrace_gateway.streams import Mark, Watch
from headrace_gateway.tokens import decode_subscription_cursor
from support.watching import Reader

NAME = "billing"


async def create(
    database: Database, name: str = NAME, *, after: Place | None = None, **job_filter: Any
) -> Subscription:
    """Create a subscription that starts now, or after a place."""
    async with database.transaction() as connection:
        end = (await read_end(connection)).settled
    async with database.transaction() as connection:
        subscription, _ = await create_subscription(
            connection,
            tenant=DEFAULT_TENANT,
            name=name,
            job_filter=JobFilter(**job_filter),
            after=after,
            end=end,
            maximum=1000,
        )
    return subscription


async def read_subscription(database: Database, name: str = NAME) -> Subscription:
    """Return the current state of a subscription."""
    async with database.transaction() as connection:
        return await get_subscription(connection, tenant=DEFAULT_TENANT, name=name)


async def delete(database: Database, name: str = NAME) -> None:
    """Delete a subscription without a wake-up."""
    async with database.transaction() as connection:
        await delete_subscription(connection, tenant=DEFAULT_TENANT, name=name)


def subscribe(watch: Watch, consumer: str = "", name: str = NAME) -> Reader:
    """Watch a subscription."""
    return Reader(watch.watch_subscription(DEFAULT_TENANT, name, consumer))


async def ack(database: Database, watch: Watch, cursor: str, name: str = NAME) -> bool:
    """Acknowledge a cursor as a gateway does; return whether the position changed."""
    decoded = decode_subscription_cursor(watch._installation, DEFAULT_TENANT, cursor)
    async with database.transaction() as connection:
        return await acknowledge(
            connection,
            tenant=DEFAULT_TENANT,
            name=name,
            subscription_id=decoded.subscription_id,
            epoch=decoded.epoch,
            place=(decoded.xid, decoded.position),
        )


async def until_receiving(reader: Reader) -> None:
    """Wait until the watch receives its subscription's events."""
    await reader.until(lambda reader: any(page.mark is not Mark.STANDBY for page in reader.pages))


async def until_standby(reader: Reader) -> None:
    """Wait for the standby mark of a watch, and assert that the watch sends nothing else."""
    await reader.until(lambda reader: bool(reader.pages))
    assert [(page.mark, page.cursor) for page in reader.pages] == [(Mark.STANDBY, "")]
