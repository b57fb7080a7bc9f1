"""The durations of the streams, as one value that tests change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations in seconds.

    Attributes:
        lease: how long a watch holds a subscription unless it renews its lease.
        renew: longest wait between two renewals, and the deadline of statements about leases.
        lease_interval: shortest and longest wait of the leases without a wake-up.
        interval: shortest and longest wait of the tail without a wake-up.
        unsettled: the same while events are unsettled. The transaction they wait for
            may end without a wake-up, so the wait is their age within these bounds.
        retry: shortest and longest wait before the retry of a failed run.
        patience: how long streams outlast an outage of PostgreSQL. Then they end, so that their
            clients try other gateways.
        ready: how long a new stream waits for an idle tail.
        linger: how long the tail reads on without streams, as the next one often follows soon.
        progress: time between two marks of a stream that reads the past, so that it resumes near
            its place even if no event matches.
        stop: deadline for the release of subscriptions at the stop.
    """

    lease: float = 15.0
    renew: float = 5.0
    lease_interval: tuple[float, float] = (0.7, 1.0)
    interval: tuple[float, float] = (0.7, 1.0)
    unsettled: tuple[float, float] = (0.01, 0.7)
    retry: tuple[float, float] = (0.1, 0.4)
    patience: float = 10.0
    ready: float = 5.0
    linger: float = 5.0
    progress: float = 1.0
    stop: float = 3.0


DEFAULT = Timing()
