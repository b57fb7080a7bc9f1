"""Wake-up topics, and the time limits of their delivery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID


class Topic(StrEnum):
    """The kinds of change that wake subscribers."""

    # A job is waiting or a worker has started: wakes the scheduler.
    JOBS = "headrace_jobs"
    # An attempt has ended, so a slot is free: wakes the scheduler while jobs wait for slots.
    SLOTS = "headrace_slots"
    # An event was written: wakes the gateways.
    EVENTS = "headrace_events"
    # A handler's log lines were written: wakes the gateways.
    LOGS = "headrace_logs"
    # The cancellation of a running job was requested: wakes the workers.
    CANCELS = "headrace_cancels"
    # A worker registered, drains or left: wakes the gateways.
    WORKERS = "headrace_workers"
    # A subscription was acquired, released or deleted: wakes the gateways.
    SUBSCRIPTIONS = "headrace_subscriptions"

    # A credential or a tenant changed: wakes the gateways.
    ACCESS = "headrace_access"

    def channel(self, installation: UUID) -> str:
        """Return the channel of an installation for NOTIFY.

        Installations can share a PostgreSQL database. A name has at most 63 characters.
        """
        return f"{self}_{installation.hex}"

    def redis_channel(self, prefix: str, installation: UUID) -> str:
        """Return the channel of an installation in Redis: `{prefix}_{topic}_{installation}`."""
        return f"{prefix}{self.removeprefix('headrace')}_{installation.hex}"


class Channels(NamedTuple):
    """The channels of some topics, in Redis and in PostgreSQL."""

    redis: Mapping[str, Topic]
    postgresql: Mapping[str, Topic]

    @classmethod
    def of(cls, topics: Iterable[Topic], *, prefix: str, installation: UUID) -> Channels:
        """Return the channels of topics."""
        topics = tuple(topics)
        return cls(
            redis={topic.redis_channel(prefix, installation): topic for topic in topics},
            postgresql={topic.channel(installation): topic for topic in topics},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations in seconds.

    Attributes:
        probe: time without messages after which a connection is probed, and the time limit of the
            response. A dead connection is detected after twice this time.
        max_gap: time without any connection after which the health check fails. Reconnecting takes
            less time.
        reconnect: shortest and longest wait before a reconnection.
        publish: time limit for publishing through Redis. PostgreSQL then sends the wake-up.
        avoid_redis: time after a Redis fault during which only PostgreSQL sends wake-ups.
        stop: time limit for stopping the background tasks.
    """

    probe: float = 5.0
    max_gap: float = 5.0
    reconnect: tuple[float, float] = (0.2, 1.0)
    publish: float = 0.5
    avoid_redis: float = 5.0
    stop: float = 2.0
