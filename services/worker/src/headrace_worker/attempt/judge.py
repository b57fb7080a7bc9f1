"""Decide how an attempt ends, from its handler's return value or exception."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from headrace_core.domain.attempt import AttemptEnd, ClaimedJob
from headrace_core.domain.job import JobError, JsonText
from headrace_core.domain.lifecycle import EventType
from headrace_core.domain.limits import MAX_BACKOFF
from headrace_core.domain.retry import RetryPolicy, is_budget_spent
from headrace_worker.api.errors import Fail, Retry, SizeExceeded
from headrace_worker.api.failure import attach_stack_trace, describe, stack_trace
from headrace_worker.api.payload import PayloadMismatch
from headrace_worker.runners.loop import ProcessDied, RemoteError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of each attempt.

    Attributes:
        result_bytes: the maximum size of a result.
        output_bytes: the maximum size of a piece of output.
        losses: the maximum number of workers that a job may lose; another loss fails the job.
        interruptions: the maximum number of consecutive interruptions; another one fails the job.
    """

    result_bytes: int
    output_bytes: int
    losses: int
    interruptions: int


class HandlerTimeout(Exception):
    """The timeout of the attempt has passed."""


def timeout_error(limit: timedelta, stack: str) -> HandlerTimeout:
    """Return the error of a handler that exceeded its timeout, with its stack."""
    error = HandlerTimeout(f"the attempt did not end within {limit.total_seconds():g} s")
    attach_stack_trace(error, stack)
    return error


def cancel_error(stack: str) -> asyncio.CancelledError:
    """Return the error of a handler that cancelled itself, with its stack."""
    error = asyncio.CancelledError("the handler cancelled itself")
    attach_stack_trace(error, stack)
    return error


def cancel_stack(task: asyncio.Task[Any]) -> str:
    """Return the stack of a handler's task at its cancellation; empty while the task runs."""
    try:
        error = task.exception()
    except asyncio.InvalidStateError:
        return ""
    except asyncio.CancelledError as cancelled:
        return stack_trace(cancelled)
    return "" if error is None else stack_trace(error)


def succeeded(job: ClaimedJob, result: JsonText, limits: Limits) -> AttemptEnd:
    """Judge a handler that returned `result`."""
    size = len(result.encode())
    if size > limits.result_bytes:
        error = SizeExceeded(
            "the result", size=size, limit=limits.result_bytes, setting="HEADRACE_MAX_RESULT_BYTES"
        )
        return failed(job, _describe(error.type, error, retryable=False))
    return AttemptEnd(key=job.key, event=EventType.SUCCEEDED, result=result)


def raised(job: ClaimedJob, error: BaseException, policy: RetryPolicy) -> AttemptEnd:
    """Judge a handler that raised `error`."""
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
    if not policy.is_retryable(described.type):
        return failed(job, replace(described, retryable=False))
    if not policy.may_retry(job.retries_used):
        return failed(job, described)
    asked = error.wait if isinstance(error, Retry) else None
    backoff = policy.backoff(job.retries_used + 1, at_least=asked)
    return AttemptEnd(
        key=job.key,
        event=EventType.RETRY_SCHEDULED,
        error=described,
        backoff=min(backoff, MAX_BACKOFF),
    )


def worker_lost(job: ClaimedJob, death: ProcessDied, limits: Limits) -> AttemptEnd:
    """Judge a handler whose process died. The death counts as a lost worker, not as a retry."""
    spent = is_budget_spent(job.worker_losses, limit=limits.losses)
    return AttemptEnd(
        key=job.key,
        event=EventType.WORKER_LOST,
        error=_describe("WORKER_LOST", death, retryable=not spent),
    )


def interrupted(job: ClaimedJob, limits: Limits) -> AttemptEnd:
    """Judge an attempt that the worker stopped, probably for a reason unrelated to the job."""
    if not is_budget_spent(job.interruptions, limit=limits.interruptions):
        return AttemptEnd(key=job.key, event=EventType.INTERRUPTED)
    return _failed(
        job,
        "INTERRUPTED",
        f"the worker was stopped {job.interruptions + 1} times in a row while it ran this job; "
        f"the limit is {limits.interruptions} (HEADRACE_MAX_INTERRUPTIONS)",
    )


def cancelled(job: ClaimedJob) -> AttemptEnd:
    """Judge an attempt whose cancellation was requested."""
    return AttemptEnd(key=job.key, event=EventType.CANCELLED)


def expired(job: ClaimedJob) -> AttemptEnd:
    """Judge an attempt that ran past the deadline of its job."""
    return AttemptEnd(
        key=job.key,
        event=EventType.EXPIRED,
        error=JobError(
            type="DEADLINE_EXCEEDED",
            message="the deadline passed while the job was running",
            retryable=False,
        ),
    )


def without_handler(job: ClaimedJob) -> AttemptEnd:
    """Judge an attempt for which the worker has no handler."""
    return _failed(job, "NO_HANDLER", f"the worker has no handler of type {job.type!r}")


def unreadable(job: ClaimedJob) -> AttemptEnd:
    """Judge an attempt whose job cannot be decoded."""
    return _failed(
        job,
        "UNREADABLE",
        f"the job's stored {', '.join(job.unreadable)} cannot be read; "
        "`python -m headrace_core mend` repairs such rows",
    )


def unwritable(job: ClaimedJob) -> AttemptEnd:
    """Judge an attempt whose end the database rejected."""
    return _failed(
        job,
        "Unwritable",
        "the database rejected the end of the attempt; the worker's log contains the reason",
    )


def broken(job: ClaimedJob) -> AttemptEnd:
    """Judge an attempt that failed because of a fault in the worker itself."""
    return _failed(
        job, "INTERNAL", "the worker could not run the attempt; its log contains the reason"
    )


def failed(job: ClaimedJob, error: JobError) -> AttemptEnd:
    """Return the end of an attempt whose job fails without another attempt."""
    return AttemptEnd(key=job.key, event=EventType.FAILED, error=error)


def _failed(job: ClaimedJob, name: str, message: str) -> AttemptEnd:
    return failed(job, JobError(type=name, message=message, retryable=False))


def _describe(name: str, error: BaseException, *, retryable: bool) -> JobError:
    return JobError(
        type=name,
        message=describe(error),
        retryable=retryable,
        stack_trace=stack_trace(error),
    )
