"""The parts of a worker that all attempts share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace_core.domain.attempt import AttemptEnd, AttemptReport
from headrace_core.domain.ids import WorkerId
from headrace_core.runtime.tracing import Tracing
from headrace_worker.attempt.judge import Limits
from headrace_worker.runners.job_log import AttemptLogs
from headrace_worker.runners.runners import Runners
from headrace_worker.timing import Timing

if TYPE_CHECKING:
    from headrace_worker.attempt.execution import Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The parts of a worker that its attempts share.

    Attributes:
        is_held: returns whether the worker holds the lease under an id.
        runners: the runners of handlers outside the event loop.
        write_report: persists a report; returns False if another worker may have the attempt.
        logs: receives the lines that handlers log.
        on_end: called once per attempt with its judged end, or with None if the lease is lost and
            another worker may have the attempt.
        release: frees the slot of an attempt; repeated calls have no effect.
        limits: the limits of each attempt.
        grace: the time for a cancelled handler in the event loop to end on its own, in seconds.
        timing: other durations.
        tracing: receives the spans of attempts; None if the worker writes none.
    """

    is_held: Callable[[WorkerId], bool]
    runners: Runners
    write_report: Callable[[WorkerId, AttemptReport], Awaitable[bool]]
    logs: AttemptLogs
    on_end: Callable[[Execution, AttemptEnd | None], None]
    release: Callable[[Execution], None]
    limits: Limits
    grace: float
    timing: Timing
    tracing: Tracing | None = None
