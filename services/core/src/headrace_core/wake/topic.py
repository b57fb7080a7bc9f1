"""What wake-ups are about."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID


class Topic(StrEnum):
    """What has changed, and so who looks."""

    # A job waits, or a worker came: the scheduler.
    JOBS = "headrace_jobs"
    # A job has ended, so a slot is free: the scheduler, when it lacks room.
    SLOTS = "headrace_slots"
    # An event was written: the gateways.
    EVENTS = "headrace_events"
    # The cancellation of a running job was asked for: the workers.
    CANCELS = "headrace_cancels"
    # A worker came or went: the gateways, for its handlers.
    WORKERS = "headrace_workers"
    # A subscription was acquired, let go of or deleted: the gateways.
    SUBSCRIPTIONS = "headrace_subscriptions"

    def channel(self, installation: UUID) -> str:
        """Return the channel's name, in Redis and for NOTIFY, where it has 63 characters at most.

        Several installations may share a Redis database, or one of PostgreSQL.
        """
        return f"{self}_{installation.hex}"
