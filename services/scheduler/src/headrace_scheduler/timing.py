"""The durations of a scheduler, which tests can replace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations in seconds.

    Attributes:
        lease: duration of a term that is not renewed.
        standby: minimum and maximum wait between two tries to lead. A standby takes over at most
            `lease` plus the maximum wait after the last renewal.
        late: delay after which the end of the loops is late, for example because the process was
            suspended.
        answer: maximum wait of a late leader for the response to a statement in flight.
        release: time limit for giving up the lead. If it is exceeded, the lease must lapse.
        retry: minimum and maximum wait before a failed run is retried.
        promote: maximum wait between two runs of promote, and so the maximum delay after a lost
            wake-up.
        dispatch: maximum wait between two runs of dispatch.
        recover: wait between two runs of recover. With a worker lease of 15 s, jobs of lost
            workers run again within 25 s.
        prune: wait between two runs of prune.
        prune_rest: minimum pause after each transaction of prune.
        roll_up: wait between two runs of roll-up.
        queues: wait between two measurements of the queues, unless they take long.
        tenants: maximum wait between two looks for tenants to delete, and between two measurements
            of the usage of tenants.
        deletion: wait between two runs while a tenant is being deleted.
        deletion_patience: time after which running jobs of a tenant are removed, although their
            workers have not confirmed the cancellation.
        deletion_settled: time after which no gateway submits jobs of the tenant any more. Gateways
            learn of the deletion within five seconds.
    """

    lease: float = 6.0
    standby: tuple[float, float] = (0.5, 1.5)
    late: float = 1.0
    answer: float = 1.0
    release: float = 2.0
    retry: tuple[float, float] = (0.5, 1.5)
    promote: float = 1.0
    dispatch: float = 1.0
    recover: float = 2.0
    prune: float = 60.0
    prune_rest: float = 0.05
    roll_up: float = 5.0
    queues: float = 10.0
    tenants: float = 10.0
    deletion: float = 1.0
    deletion_patience: float = 60.0
    deletion_settled: float = 15.0


DEFAULT = Timing()
