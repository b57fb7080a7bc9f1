"""The lifecycle of a job, defined here and nowhere else.

The guards of SQL statements, the terminal states and the CHECK constraints are derived from
LIFECYCLE.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """The state of a job."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EventType(StrEnum):
    """The type of a transition."""

    SUBMITTED = "submitted"
    DUE = "due"
    STARTED = "started"
    PROGRESSED = "progressed"
    OUTPUT = "output"
    SUCCEEDED = "succeeded"
    RETRY_SCHEDULED = "retry_scheduled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    WORKER_LOST = "worker_lost"
    CANCEL_REQUESTED = "cancel_requested"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REQUEUED = "requeued"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: `event` leads from a state in `sources` to a state in `targets`.

    A rule without sources creates the job.
    """

    event: EventType
    sources: tuple[JobState, ...]
    targets: tuple[JobState, ...]


_E, _S = EventType, JobState
_WAITING = (_S.SCHEDULED, _S.QUEUED, _S.RETRYING)

LIFECYCLE: tuple[Rule, ...] = (
    Rule(_E.SUBMITTED, (), (_S.QUEUED, _S.SCHEDULED)),
    Rule(_E.DUE, (_S.SCHEDULED, _S.RETRYING), (_S.QUEUED,)),
    Rule(_E.STARTED, (_S.QUEUED,), (_S.RUNNING,)),
    Rule(_E.PROGRESSED, (_S.RUNNING,), (_S.RUNNING,)),
    Rule(_E.OUTPUT, (_S.RUNNING,), (_S.RUNNING,)),
    Rule(_E.SUCCEEDED, (_S.RUNNING,), (_S.SUCCEEDED,)),
    Rule(_E.RETRY_SCHEDULED, (_S.RUNNING,), (_S.RETRYING,)),
    Rule(_E.FAILED, (_S.RUNNING,), (_S.FAILED,)),
    Rule(_E.INTERRUPTED, (_S.RUNNING,), (_S.QUEUED,)),
    Rule(_E.WORKER_LOST, (_S.RUNNING,), (_S.QUEUED, _S.FAILED)),
    Rule(_E.CANCEL_REQUESTED, (_S.RUNNING,), (_S.RUNNING,)),
    Rule(_E.CANCELLED, (*_WAITING, _S.RUNNING), (_S.CANCELLED,)),
    Rule(_E.EXPIRED, (*_WAITING, _S.RUNNING), (_S.FAILED,)),
    Rule(_E.REQUEUED, (_S.FAILED, _S.CANCELLED), (_S.QUEUED, _S.SCHEDULED)),
)

_RULES = {rule.event: rule for rule in LIFECYCLE}

# A state is terminal if a requeue is the only event that leaves it.
TERMINAL: frozenset[JobState] = frozenset(
    state
    for state in JobState
    if not any(state in rule.sources for rule in LIFECYCLE if rule.event is not EventType.REQUEUED)
)


def sources(event: EventType) -> tuple[JobState, ...]:
    """Return the states in which `event` can occur."""
    return _RULES[event].sources


def targets(event: EventType) -> tuple[JobState, ...]:
    """Return the states to which `event` can lead."""
    return _RULES[event].targets


def allows(source: JobState | None, event: EventType, target: JobState) -> bool:
    """Return whether `event` can lead from `source` (None: no job yet) to `target`."""
    rule = _RULES[event]
    allowed = not rule.sources if source is None else source in rule.sources
    return allowed and target in rule.targets
