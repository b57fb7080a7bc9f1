"""The results of end writes, and their effects in the worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

import structlog

from headrace_core.domain.attempt import AttemptEnd, ClaimedJob
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.wake import Topic
from headrace_worker.api.failure import error_fields
from headrace_worker.attempt.execution import Execution
from headrace_worker.attempt.traces import end_span
from headrace_worker.metrics import ENDS, Counts

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Written:
    """The end is written to the history.

    Attributes:
        event: the written event. It is CANCELLED instead of the judged event if the job would run
            again and its cancellation was requested.
    """

    event: EventType


@dataclass(frozen=True, slots=True)
class Refused:
    """The worker no longer has the attempt: its job was cancelled, expired or recovered."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker abandoned the attempt: its lease is lost, or the database rejected every end.

    Recovery or the search for strays takes the attempt back.
    """


@dataclass(frozen=True, slots=True)
class SelfCompleted:
    """The handler ended the job in its own transaction."""


EndResult: TypeAlias = Written | Refused | Lost | SelfCompleted

# An attempt, its judged end and the result of the write. The end of a lost attempt may be None.
Ended: TypeAlias = tuple[Execution, AttemptEnd | None, EndResult]

WRITTEN: Final = {event: Written(event) for event in ENDS}
REFUSED: Final = Refused()
LOST: Final = Lost()
SELF_COMPLETED: Final = SelfCompleted()

_LOG_EVENTS: Final = {
    EventType.SUCCEEDED: "job_succeeded",
    EventType.RETRY_SCHEDULED: "job_retry_scheduled",
    EventType.FAILED: "job_failed",
    EventType.INTERRUPTED: "job_interrupted",
    EventType.WORKER_LOST: "job_worker_lost",
    EventType.CANCELLED: "job_cancelled",
    EventType.EXPIRED: "job_expired",
}
# The events that contain an error.
_EVENTS_WITH_ERROR: Final = (
    EventType.RETRY_SCHEDULED,
    EventType.FAILED,
    EventType.WORKER_LOST,
    EventType.EXPIRED,
)
# After these events, the job waits for its due time or for a slot.
_EVENTS_THAT_WAIT: Final = (EventType.RETRY_SCHEDULED, EventType.INTERRUPTED, EventType.WORKER_LOST)


class ResultRecorder:
    """Release the slots of ended attempts, count and log the results, and wake other processes.

    Args:
        counts: counts the results.
        publish: sends wake-ups to other processes.
    """

    def __init__(self, *, counts: Counts, publish: Callable[..., None]) -> None:
        self._counts = counts
        self._publish = publish

    def record(self, ended: Sequence[Ended]) -> None:
        """Record the results of one write."""
        counts = self._counts
        # A log line for each success would double the cost of a short job, so it requires the level
        # DEBUG. The history and the streams contain the successes.
        verbose = _log.is_enabled_for(logging.DEBUG)
        waits_again = False
        for execution, end, result in ended:
            execution.release()
            if execution.span is not None:
                end_span(execution.span, *_outcome(end, result))
            match result:
                case Written(event):
                    counts.ended[event] += 1
                    waits_again = waits_again or event in _EVENTS_THAT_WAIT
                    if verbose or event is not EventType.SUCCEEDED:
                        _log_written(execution.job, end, event)
                case SelfCompleted():
                    counts.ended[EventType.SUCCEEDED] += 1
                    _log.debug(_LOG_EVENTS[EventType.SUCCEEDED], **job_fields(execution.job))
                case Refused() | Lost():
                    counts.ends_refused += 1
                    _log.warning("attempt_refused", **job_fields(execution.job))
                case _:
                    assert_never(result)
        self._publish(Topic.EVENTS, Topic.SLOTS)
        if waits_again:
            self._publish(Topic.JOBS)


def _outcome(end: AttemptEnd | None, result: EndResult) -> tuple[str, str]:
    """Return the outcome of an attempt, and the type of its error, for its span."""
    match result:
        case Written(event):
            error = end.error if end and event in _EVENTS_WITH_ERROR else None
            return event, "" if error is None else error.type
        case SelfCompleted():
            return EventType.SUCCEEDED, ""
        case Refused():
            return "refused", ""
        case Lost():
            return "lost", ""
        case _:
            assert_never(result)


def job_fields(job: ClaimedJob) -> dict[str, object]:
    """Return the fields that identify an attempt in a log line."""
    return {
        "job_id": str(job.key.job_id),
        "attempt": job.key.attempt,
        "type": job.type,
        "queue": job.queue,
        "correlation_id": job.correlation_id,
    }


def _log_written(job: ClaimedJob, end: AttemptEnd | None, event: EventType) -> None:
    match event:
        case EventType.SUCCEEDED:
            log = _log.debug
        case EventType.RETRY_SCHEDULED:
            log = _log.warning
        case EventType.FAILED | EventType.EXPIRED:
            log = _log.error
        case EventType.WORKER_LOST:
            log = _log.warning if end and end.state is JobState.QUEUED else _log.error
        case _:
            log = _log.info
    error = end.error if end and event in _EVENTS_WITH_ERROR else None
    log(_LOG_EVENTS[event], **job_fields(job), **({} if error is None else error_fields(error)))
