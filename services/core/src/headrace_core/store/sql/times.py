"""SQL for times that can be read: finite, and within the calendar of Python and protobuf.

The driver raises when it decodes a time beyond the calendar, and with it fails the whole statement.
So statements that return stored times return them through `readable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from headrace_core.domain.times import MAX_DURATION

# The driver reads the ends of Python's calendar as infinite, so both ends are excluded.
_FIRST: Final = "'0001-01-01 00:00:00+00'::timestamptz"
_END: Final = "'9999-12-31 23:59:59.999999+00'::timestamptz"
_LONGEST: Final = f"'{MAX_DURATION.days} days'::interval"


def sound_times(columns: Iterable[str]) -> str:
    """The condition that all of these times can be read; absent ones do not count."""
    return " AND ".join(f"{name} > {_FIRST} AND {name} < {_END}" for name in columns)


def sound_interval(column: str) -> str:
    """The condition that a timeout is positive and can be read."""
    return f"{column} > '0'::interval AND {column} <= {_LONGEST}"


def sound_number(column: str) -> str:
    """The condition that a double is finite. NaN is above infinity in PostgreSQL."""
    return f"{column} > '-infinity'::double precision AND {column} < 'infinity'::double precision"


def readable(column: str) -> str:
    """A time as it is stored; an unreadable one as `infinity`, which the driver decodes."""
    return (
        f"CASE WHEN {column} IS NULL OR ({sound_times([column])}) THEN {column} "
        "ELSE 'infinity'::timestamptz END"
    )


def readable_interval(column: str) -> str:
    """A timeout as it is stored; an unreadable one as a negative one."""
    return (
        f"CASE WHEN {column} IS NULL OR ({sound_interval(column)}) THEN {column} "
        "ELSE '-1 second'::interval END"
    )


def clamped(column: str) -> str:
    """The time next to a stored one that a submitter might have asked for."""
    return (
        f"least(greatest({column}, '1970-01-01 00:00:00+00'::timestamptz), "
        "'9999-12-30 23:59:59.999999+00'::timestamptz)"
    )
