"""The durations of calls and streams, the backoff between attempts, and checks of durations."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from numbers import Real
from typing import Final


class Backoff:
    """Exponential backoff with equal jitter (M. Brooker, AWS Architecture Blog, 2015).

    Half of each wait is fixed, so the five retries of a call span at least 3.9 s. A killed gateway
    restarts in about that time.

    Args:
        first: the first wait before jitter, in seconds.
        longest: the maximum wait before jitter, in seconds.
    """

    def __init__(self, *, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._base = first

    def next(self, asked: timedelta | None = None) -> float:
        """Return the next wait in seconds.

        Args:
            asked: the wait that the server requested. The backoff is added to it, because the
                server requests the same wait from all clients.
        """
        wait = random.uniform(self._base / 2, self._base)
        self._base = min(self._longest, self._base * 2)
        return wait + (asked.total_seconds() if asked else 0.0)

    def reset(self) -> None:
        """Start with the first wait again, after a success."""
        self._base = self._first


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The durations of calls and streams, in seconds.

    Args:
        grace: the time between the deadline of a call and its cancellation, if gRPC has not ended
            it.
        first_retry: the first wait before a retry, before jitter.
        longest_call_retry: the maximum wait before the retry of a call, before jitter.
        longest_stream_retry: the maximum wait before a stream is resumed, before jitter.
        silence: the time without a response after which an endless stream counts as lost: twice the
            maximum mark interval of a gateway.
        quiet: the time without a response after which the stream of one job checks the health of
            its gateway. Such a stream can be quiet for any length of time.
        answer: the deadline of that health check.
        steady: the time for which a stream must be served to reset the backoff.
        backoff: creates the backoff.
    """

    grace: float = 2.0
    first_retry: float = 0.25
    longest_call_retry: float = 4.0
    longest_stream_retry: float = 5.0
    silence: float = 60.0
    quiet: float = 30.0
    answer: float = 10.0
    steady: float = 5.0
    backoff: Callable[..., Backoff] = Backoff

    def call_backoff(self) -> Backoff:
        """Return the backoff of a call."""
        return self.backoff(first=self.first_retry, longest=self.longest_call_retry)

    def stream_backoff(self) -> Backoff:
        """Return the backoff of a stream."""
        return self.backoff(first=self.first_retry, longest=self.longest_stream_retry)


DEFAULT: Final = Timing()


def check_seconds(name: str, value: float, *, zero: bool = False, endless: bool = False) -> None:
    """Check a number of seconds.

    Args:
        name: the argument's name.
        value: the argument.
        zero: whether 0 is valid.
        endless: whether infinity is valid.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is NaN, negative, or an invalid 0 or infinity.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be a number of seconds")
    # NaN fails every comparison.
    if not (0 <= value <= inf) or (value == 0 and not zero) or (value == inf and not endless):
        at_least = "0 or more" if zero else "more than 0"
        finite = "" if endless else " and finite"
        raise ValueError(f"{name} is {value} seconds; it must be {at_least}{finite}")
