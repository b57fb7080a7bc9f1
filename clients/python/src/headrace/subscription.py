"""Named subscriptions, as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from headrace.job import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs: those that match every field that is not empty. See `Client.watch`."""

    queues: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    states: tuple[JobState, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    batch_id: str = ""
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A named subscription, whose cursor the server keeps.

    Args:
        name: its name, unique in its tenant.
        filter: which jobs.
        create_time: when it was created.
        ack_time: when something was last acknowledged; None when nothing was.
        consumer: the one that receives; empty when nobody does.
        lag: how old the oldest event behind the acknowledged ones is, whether it matches or not;
            None when there is none.
        created: of `create_subscription`, whether it is new; None else.
        unreadable_fields: the fields whose stored values cannot be read, which are left out.
    """

    name: str
    filter: JobFilter
    create_time: datetime | None
    ack_time: datetime | None = None
    consumer: str = ""
    lag: timedelta | None = None
    created: bool | None = None
    unreadable_fields: tuple[str, ...] = ()
