"""Seconds that a caller gives, checked where they are given."""

from __future__ import annotations

from math import inf
from numbers import Real


def check_seconds(name: str, value: float, *, zero: bool = False, endless: bool = False) -> None:
    """Check a number of seconds.

    Args:
        name: the argument's name.
        value: what was given.
        zero: whether it may be 0.
        endless: whether it may be infinite.

    Raises:
        TypeError: it is not a number.
        ValueError: it is NaN, negative, or 0 or infinite where it may not be.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be a number of seconds")
    # NaN fails every comparison.
    if not (0 <= value <= inf) or (value == 0 and not zero) or (value == inf and not endless):
        at_least = "0 or more" if zero else "more than 0"
        finite = "" if endless else " and finite"
        raise ValueError(f"{name} is {value} seconds; it must be {at_least}{finite}")
