"""Subscriptions and job filters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from headrace.job import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """A job filter: a job must match every field that is not empty; see `Client.watch`."""

    queues: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    states: tuple[JobState, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    batch_id: str = ""
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A subscription; the server stores its position.

    Args:
        name: the name, unique within the tenant.
        filter: selects the jobs.
        create_time: the creation time.
        ack_time: the time of the last acknowledgment; None before the first.
        consumer: the current consumer; empty if no consumer is active.
        lag: the age of the oldest unacknowledged event, even if the event does not match; None if
            all events are acknowledged.
        created: whether this `create_subscription` call created it; None from other calls.
        unreadable_fields: fields that are empty because their stored values cannot be read.
    """

    name: str
    filter: JobFilter
    create_time: datetime | None
    ack_time: datetime | None = None
    consumer: str = ""
    lag: timedelta | None = None
    created: bool | None = None
    unreadable_fields: tuple[str, ...] = ()
