"""Named subscriptions: streams whose place is kept here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NewType
from uuid import UUID

from headrace_core.domain.job import JsonText

SubscriptionId = NewType("SubscriptionId", UUID)
WatchId = NewType("WatchId", UUID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A subscription as it is now.

    Attributes:
        tenant: whose it is.
        name: unique in its tenant.
        id: another one when the name is deleted and used again.
        filter: which jobs, a JSON object.
        consumer: who receives; None when nobody does.
        epoch: grows when another consumer takes over.
        xid: with `position` the place up to which everything is acknowledged.
        position: see `xid`.
        create_time: when it was created.
        ack_time: when something was last acknowledged.
        lag: how old the oldest event behind the acknowledged ones is; None when there is none.
    """

    tenant: str
    name: str
    id: SubscriptionId
    filter: JsonText
    consumer: str | None
    epoch: int
    xid: int
    position: int
    create_time: datetime
    ack_time: datetime | None
    lag: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquired:
    """What a watch needs to know that has just acquired a subscription.

    `xid` and `position` are the place up to which everything is acknowledged.
    """

    id: SubscriptionId
    filter: JsonText
    epoch: int
    xid: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionWatch:
    """A watch and the subscription that it has, or had, acquired."""

    tenant: str
    name: str
    watch_id: WatchId


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has acquired a subscription, and for how long that still counts.

    `watch_id` and `lease` are None when nobody has.
    """

    id: SubscriptionId
    consumer: str | None
    watch_id: WatchId | None
    lease: timedelta | None
