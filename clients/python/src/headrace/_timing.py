"""Durations of calls and streams, the backoff between attempts, and checks of durations."""

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
        maximum: the maximum wait before jitter, in seconds.
    """

    def __init__(self, *, first: float, maximum: float) -> None:
        self._first = first
        self._maximum = maximum
        self._base = first

    def next(self, requested: timedelta | None = None) -> float:
        """Return the next wait in seconds.

        Args:
            requested: the wait that the server requests. The backoff is added, because the server
                requests the same wait from all clients.
        """
        wait = random.uniform(self._base / 2, self._base)
        self._base = min(self._maximum, self._base * 2)
        return wait + (requested.total_seconds() if requested else 0.0)

    def reset(self) -> None:
        """Start with the first wait again, because an attempt has succeeded."""
        self._base = self._first


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The durations of calls and streams, in seconds.

    Args:
        grace_period: time after the deadline of a call until the client cancels the call, if gRPC
            has not ended it.
        first_backoff: the first wait before a retry, before jitter.
        max_call_backoff: the maximum wait before a call is retried, before jitter.
        max_stream_backoff: the maximum wait before a stream is resumed, before jitter.
        max_silence: time without a response after which an endless stream counts as lost: twice the
            longest interval between a gateway's marks.
        health_check_after: time without a response after which the stream of one job checks the
            health of its gateway. Such a stream can be quiet for any length of time.
        health_timeout: the deadline of that health check.
        stable_after: time after the first response after which a stream resets the backoff.
        backoff: creates the backoff.
    """

    grace_period: float = 2.0
    first_backoff: float = 0.25
    max_call_backoff: float = 4.0
    max_stream_backoff: float = 5.0
    max_silence: float = 60.0
    health_check_after: float = 30.0
    health_timeout: float = 10.0
    stable_after: float = 5.0
    backoff: Callable[..., Backoff] = Backoff

    def call_backoff(self) -> Backoff:
        """Return a backoff for a call."""
        return self.backoff(first=self.first_backoff, maximum=self.max_call_backoff)

    def stream_backoff(self) -> Backoff:
        """Return a backoff for a stream."""
        return self.backoff(first=self.first_backoff, maximum=self.max_stream_backoff)


DEFAULT: Final = Timing()


def check_seconds(name: str, value: float, *, zero: bool = False, endless: bool = False) -> None:
    """Check that an argument is a valid number of seconds.

    Args:
        name: the name of the argument, for the error message.
        value: the value of the argument.
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
