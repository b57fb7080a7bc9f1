"""The durations that streams use, as one value that tests can replace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations in seconds.

    Attributes:
        lease: time a watch holds a subscription without renewing its lease.
        renew: longest wait between two renewals, and the time limit for lease statements.
        lease_interval: shortest and longest wait of the lease loop without a wake-up.
        interval: shortest and longest wait of the tail without a wake-up.
        log_rest: wait of the log tail without streams and without a wake-up.
        unsettled: shortest and longest wait of the tail while events are unsettled. The wait is
            the age of these events, because their transaction may end without a wake-up.
        retry: shortest and longest wait before a failed run is retried.
        patience: longest PostgreSQL outage that streams survive. They then end, so that their
            clients try other gateways.
        ready: longest wait of a new stream for an idle tail.
        linger: time the tail keeps reading without open streams, because another stream often opens
            soon.
        progress: time between two marks while a stream reads the past. With the cursor of a mark,
            the client can resume near that place even if no event has matched.
        stop: longest wait for the release of subscriptions when the gateway stops.
        overview_pace: shortest time between two changes of an overview.
        overview_workers: longest wait for changes of workers without a wake-up.
        overview_recount: shortest wait between two counts of all jobs, and the further wait if no
            event was missed.
        overview_tick: time between two overviews while rates change without an event.
    """

    lease: float = 15.0
    renew: float = 5.0
    lease_interval: tuple[float, float] = (0.7, 1.0)
    interval: tuple[float, float] = (0.7, 1.0)
    log_rest: float = 60.0
    unsettled: tuple[float, float] = (0.01, 0.7)
    retry: tuple[float, float] = (0.1, 0.4)
    patience: float = 10.0
    ready: float = 5.0
    linger: float = 5.0
    progress: float = 1.0
    stop: float = 3.0
    overview_pace: float = 0.05
    overview_workers: float = 2.0
    overview_recount: tuple[float, float] = (1.0, 29.0)
    overview_tick: float = 1.0


DEFAULT = Timing()
