"""Named subscriptions: streams whose place the server stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NewType
from uuid import UUID

from headrace_core.domain.job import JsonText
from headrace_core.domain.query import JobFilter

SubscriptionId = NewType("SubscriptionId", UUID)
WatchId = NewType("WatchId", UUID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A stored subscription.

    Attributes:
        tenant: the tenant that owns it.
        name: the name, unique within the tenant.
        id: the id. A subscription that reuses a deleted name has a new id.
        filter: the jobs whose events it receives.
        consumer: the current consumer; None if there is no consumer.
        epoch: a number that increases with each change of the consumer.
        xid: with `position`, the place of the last acknowledged event.
        position: see `xid`.
        create_time: the time of creation.
        ack_time: the time of the last acknowledgement.
        lag: the age of the oldest unacknowledged event; None if there is no such event.
        unreadable: the stored fields that cannot be decoded. They are None here.
    """

    tenant: str
    name: str
    id: SubscriptionId
    filter: JobFilter | None
    consumer: str | None
    epoch: int
    xid: int
    position: int
    create_time: datetime | None
    ack_time: datetime | None
    lag: timedelta | None
    unreadable: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquiredSubscription:
    """The fields of a subscription that a watch receives when it acquires it.

    `xid` and `position` are the place of the last acknowledged event.
    """

    id: SubscriptionId
    filter: JsonText
    epoch: int
    xid: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionWatch:
    """A watch, and the subscription that it acquired."""

    tenant: str
    name: str
    watch_id: WatchId


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The watch that has acquired a subscription, and the remaining time of its lease.

    `watch_id` and `lease` are None if there is no watch.
    """

    id: SubscriptionId
    consumer: str | None
    watch_id: WatchId | None
    lease: timedelta | None
