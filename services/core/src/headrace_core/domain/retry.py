"""Retries of failed attempts, and the crash budget of jobs that crash their workers.

The backoff is exponential with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015); `jitter` below 1 narrows the random share of the wait.

The crash budget is separate from the retries. If a worker dies, each of its jobs is charged with a
loss, because the cause is unknown. A job with several losses runs in its own process. The job is
charged if that process crashes, but not if the worker dies.

A job can also send its worker a stop signal, as a deployment does. The signal interrupts all
attempts of the worker, so a second budget counts consecutive interruptions. The budget is large, so
a job that takes longer than the time between two deployments does not exhaust it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from headrace_core.domain.limits import (
    ATTEMPTS,
    ERROR_TYPES_RULE,
    JITTER,
    MAX_DURATION,
    MAX_ERROR_TYPES,
    MULTIPLIER,
    is_error_type,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """A complete policy.

    Args:
        max_attempts: the number of attempts, including the first.
        initial_backoff: the wait before the first retry, before jitter.
        max_backoff: the longest wait.
        multiplier: the factor from one wait to the next.
        jitter: the random share of the wait, 0 to 1.
        non_retryable_error_types: the types of errors that fail the job at once, even if attempts
            remain. Each is an exact `JobError.type`: the name of an exception (not of its base
            class), the type of a `Fail`, or TIMEOUT. At most 32.

    Raises:
        TypeError: the error types are a string instead of a tuple.
        ValueError: a value is out of its range.
    """

    max_attempts: int = 3
    initial_backoff: timedelta = timedelta(seconds=1)
    max_backoff: timedelta = timedelta(minutes=5)
    multiplier: float = 2.0
    jitter: float = 1.0
    non_retryable_error_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not ATTEMPTS.contains(self.max_attempts):
            raise ValueError(f"max_attempts is {self.max_attempts}; it must be {ATTEMPTS}")
        if self.initial_backoff < timedelta() or self.max_backoff < self.initial_backoff:
            raise ValueError(
                f"initial_backoff is {self.initial_backoff} and max_backoff is {self.max_backoff}; "
                "they must satisfy 0 <= initial_backoff <= max_backoff"
            )
        if self.max_backoff > MAX_DURATION:
            raise ValueError(
                f"max_backoff is {self.max_backoff}; it must be at most {MAX_DURATION.days} days"
            )
        if not MULTIPLIER.contains(self.multiplier):
            raise ValueError(f"multiplier is {self.multiplier}; it must be {MULTIPLIER}")
        if not JITTER.contains(self.jitter):
            raise ValueError(f"jitter is {self.jitter}; it must be {JITTER}")
        if isinstance(self.non_retryable_error_types, str):
            raise TypeError("non_retryable_error_types is a string; it must be a tuple of names")
        if len(self.non_retryable_error_types) > MAX_ERROR_TYPES or not all(
            is_error_type(name) for name in self.non_retryable_error_types
        ):
            raise ValueError(f"non_retryable_error_types must be {ERROR_TYPES_RULE}")

    def may_retry(self, retries_used: int) -> bool:
        """Return whether another attempt remains after `retries_used` retries."""
        return retries_used + 1 < self.max_attempts

    def is_retryable(self, error_type: str) -> bool:
        """Return whether the policy retries errors of this type."""
        return error_type not in self.non_retryable_error_types

    def backoff(
        self,
        retry: int,
        draw: Callable[[], float] = random.random,
        *,
        at_least: timedelta | None = None,
    ) -> timedelta:
        """Return the wait before a retry.

        Args:
            retry: the number of the retry, from 1.
            draw: returns a random number in [0, 1).
            at_least: the minimum wait that the handler, or a server that it called, requested. The
                random share of the backoff is added, because many jobs may get the same minimum.
        """
        # The exponent is limited, because a large retry number would overflow a float.
        growth = self.multiplier ** min(retry - 1, 64)
        base = min(self.max_backoff.total_seconds(), self.initial_backoff.total_seconds() * growth)
        random_share = base * self.jitter * draw()
        if at_least is not None:
            return min(max(at_least, timedelta()), MAX_DURATION) + timedelta(seconds=random_share)
        return timedelta(seconds=base - random_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOverrides:
    """The retry policy of a job. If a field is None, the handler's policy applies."""

    max_attempts: int | None = None
    initial_backoff: timedelta | None = None
    max_backoff: timedelta | None = None
    multiplier: float | None = None
    jitter: float | None = None
    non_retryable_error_types: tuple[str, ...] | None = None

    def applied_to(self, policy: RetryPolicy) -> RetryPolicy:
        """Return `policy` with the fields of this policy that are set.

        If only one of the two backoffs is set, the other one is adjusted to it.
        """
        initial = policy.initial_backoff if self.initial_backoff is None else self.initial_backoff
        longest = policy.max_backoff if self.max_backoff is None else self.max_backoff
        if longest < initial:
            if self.max_backoff is None:
                longest = initial
            else:
                initial = longest
        return RetryPolicy(
            max_attempts=self.max_attempts or policy.max_attempts,
            initial_backoff=initial,
            max_backoff=longest,
            multiplier=self.multiplier or policy.multiplier,
            jitter=policy.jitter if self.jitter is None else self.jitter,
            non_retryable_error_types=(
                policy.non_retryable_error_types
                if self.non_retryable_error_types is None
                else self.non_retryable_error_types
            ),
        )


def set_fields(retry: RetryOverrides | RetryPolicy) -> dict[str, Any]:
    """Return the fields of a policy that are set, by their names in `RetryOverrides`."""
    return {
        name: value
        for name in RetryOverrides.__slots__
        if (value := getattr(retry, name)) is not None
    }


# The number of losses after which a job runs in its own process. One loss usually has another
# cause, such as a failed machine or another job of the worker. Starting a process takes a few
# tenths of a second.
LOSSES_BEFORE_OWN_PROCESS: Final = 2

# The number of consecutive interruptions after which a job runs in its own process.
INTERRUPTIONS_BEFORE_OWN_PROCESS: Final = 5


def needs_own_process(worker_losses: int, interruptions: int = 0) -> bool:
    """Return whether a job with these losses and interruptions must run in its own process."""
    return (
        worker_losses >= LOSSES_BEFORE_OWN_PROCESS
        or interruptions >= INTERRUPTIONS_BEFORE_OWN_PROCESS
    )


def is_budget_spent(charged: int, *, limit: int) -> bool:
    """Return whether the next worker loss or interruption fails the job.

    Args:
        charged: the losses or interruptions of the job so far.
        limit: the maximum (HEADRACE_MAX_WORKER_LOSSES, HEADRACE_MAX_INTERRUPTIONS).
    """
    return charged >= limit
