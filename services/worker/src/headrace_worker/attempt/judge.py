"""How an attempt ends, by how its handler ended."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from headrace_core.domain.attempt import AttemptEnd, ClaimedJob
from headrace_core.domain.job import JobError, JsonText
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.retry import RetryPolicy, is_spent
from headrace_worker.api.errors import Fail, Retry, SizeExceeded
from headrace_worker.api.payload import PayloadMismatch
from headrace_worker.attempt.failure import attach_stack_trace, describe, stack_trace
from headrace_worker.runners.children import leave_fork

# As long as a submitter may ask for; a handler that asks for more could leave every calendar.
_MAX_BACKOFF = timedelta(days=7)


class HandlerTimeout(Exception):
    """The attempt's time is up."""


class ProcessDied(Exception):
    """The handler's process has died; the message says how."""


class RemoteError(Exception):
    """An exception of a handler that stays where it was raised, by name and message."""

    def __init__(self, type: str, message: str, stack_trace: str = "") -> None:  # noqa: A002
        super().__init__(message)
        self.type = type
        attach_stack_trace(self, stack_trace)


def tame(error: BaseException) -> Exception:
    """What a handler raised, as an error of its job.

    SystemExit out of a task would end the loop and all that runs on it, and a StopIteration is
    taken by no future: who waits for it would wait for ever.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RemoteError(type(error).__name__, describe(error), stack_trace(error))


async def call(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Runs a handler in the loop.

    Raises:
        Exception: whatever it raised; SystemExit and KeyboardInterrupt as a RemoteError.
    """
    pid = os.getpid()
    try:
        result = await function(*arguments)
    except BaseException as error:
        leave_fork(pid, 1)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise tame(error) from error
        raise
    leave_fork(pid, 0)
    return result


def succeeded(job: ClaimedJob, result: JsonText, *, max_bytes: int) -> AttemptEnd:
    """The handler returned."""
    size = len(result.encode())
    if size > max_bytes:
        error = SizeExceeded(
            "the result", size=size, limit=max_bytes, setting="HEADRACE_MAX_RESULT_BYTES"
        )
        return failed(job, _describe(error.type, error, retryable=False))
    return AttemptEnd(key=job.key, event=EventType.SUCCEEDED, result=result)


def raised(job: ClaimedJob, error: BaseException, policy: RetryPolicy) -> AttemptEnd:
    """The handler raised."""
    match error:
        case Fail():
            return failed(job, _describe(error.type, error, retryable=False))
        case PayloadMismatch():
            return failed(job, _describe("PayloadMismatch", error, retryable=False))
        case HandlerTimeout():
            described = _describe("TIMEOUT", error, retryable=True)
        case Retry():
            described = _describe("Retry", error, retryable=True)
        case RemoteError():
            described = _describe(error.type, error, retryable=True)
        case _:
            described = _describe(type(error).__name__, error, retryable=True)
    if not policy.retries(described.type):
        return failed(job, replace(described, retryable=False))
    if not policy.may_retry(job.retries_used):
        return failed(job, described)
    asked = error.wait if isinstance(error, Retry) else None
    if asked is not None:
        asked = as_backoff(asked)
    backoff = policy.backoff(job.retries_used + 1, asked=asked)
    return AttemptEnd(
        key=job.key,
        event=EventType.RETRY_SCHEDULED,
        error=described,
        backoff=min(backoff, _MAX_BACKOFF),
    )


def as_backoff(asked: timedelta) -> timedelta:
    """The wait that is next to what a handler asks for."""
    return min(max(asked, timedelta()), _MAX_BACKOFF)


def worker_lost(job: ClaimedJob, death: ProcessDied, *, max_losses: int) -> AttemptEnd:
    """The handler's process died: that spends no retry and counts as the loss of a worker.

    Args:
        job: the job.
        death: how it died.
        max_losses: how many workers a job may lose.
    """
    spent = is_spent(job.worker_losses, limit=max_losses)
    return AttemptEnd(
        key=job.key,
        event=EventType.WORKER_LOST,
        error=_describe("WORKER_LOST", death, retryable=not spent),
    )


def interrupted(job: ClaimedJob, *, max_interruptions: int) -> AttemptEnd:
    """The worker stopped the attempt, for a reason that is not the job's as far as it can tell.

    Args:
        job: the job.
        max_interruptions: how often in a row it may be interrupted; the next time fails it.
    """
    if not is_spent(job.interruptions, limit=max_interruptions):
        return AttemptEnd(key=job.key, event=EventType.INTERRUPTED)
    return failed(
        job,
        JobError(
            type="INTERRUPTED",
            message=(
                f"the worker was stopped {job.interruptions + 1} times in a row while it ran this "
                f"job; the limit is {max_interruptions} (HEADRACE_MAX_INTERRUPTIONS)"
            ),
            retryable=False,
        ),
    )


def unwritable(job: ClaimedJob) -> AttemptEnd:
    """The database refuses what the handler has to say."""
    return failed(
        job,
        JobError(
            type="Unwritable",
            message="the database refused how the attempt ended; the worker's log has the reason",
            retryable=False,
        ),
    )


def unreadable(job: ClaimedJob) -> AttemptEnd:
    """The job's row cannot be read."""
    return failed(
        job,
        JobError(
            type="UNREADABLE",
            message=f"the stored {', '.join(job.unreadable)} of the job cannot be read; "
            "`python -m headrace_core mend` repairs such rows",
            retryable=False,
        ),
    )


def broken(job: ClaimedJob) -> AttemptEnd:
    """The worker itself stumbled."""
    return failed(
        job,
        JobError(
            type="INTERNAL",
            message="the worker could not run the attempt; its log has the reason",
            retryable=False,
        ),
    )


def failed(job: ClaimedJob, error: JobError) -> AttemptEnd:
    """Nothing more can help."""
    return AttemptEnd(key=job.key, event=EventType.FAILED, error=error)


def expired(job: ClaimedJob) -> AttemptEnd:
    """The job's deadline passed while it ran."""
    return AttemptEnd(
        key=job.key,
        event=EventType.EXPIRED,
        error=JobError(
            type="DEADLINE_EXCEEDED",
            message="the deadline passed while it was running",
            retryable=False,
        ),
    )


def _describe(name: str, error: BaseException, *, retryable: bool) -> JobError:
    return JobError(
        type=name,
        message=describe(error),
        retryable=retryable,
        stack_trace=stack_trace(error),
    )
