"""SQL for readable times: finite, and within the calendar of Python and protobuf.

The driver raises an error when it decodes a time beyond the calendar, so the whole statement fails.
Statements therefore return stored times through `readable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from headrace_core.domain.limits import MAX_DURATION

# The driver reads the ends of Python's calendar as infinite, so both ends are excluded.
_FIRST: Final = "'0001-01-01 00:00:00+00'::timestamptz"
_END: Final = "'9999-12-31 23:59:59.999999+00'::timestamptz"
_LONGEST: Final = f"'{MAX_DURATION.days} days'::interval"


def sound_times(columns: Iterable[str]) -> str:
    """Return the condition that all of these times are readable or NULL."""
    return " AND ".join(f"{name} > {_FIRST} AND {name} < {_END}" for name in columns)


def sound_interval(column: str) -> str:
    """Return the condition that a timeout is positive and readable."""
    return f"{column} > '0'::interval AND {column} <= {_LONGEST}"


def sound_number(column: str) -> str:
    """Return the condition that a double is finite. NaN is above infinity in PostgreSQL."""
    return f"{column} > '-infinity'::double precision AND {column} < 'infinity'::double precision"


def readable(column: str) -> str:
    """Return the SQL of a stored time. An unreadable time becomes `infinity`."""
    return (
        f"CASE WHEN {column} IS NULL OR ({sound_times([column])}) THEN {column} "
        "ELSE 'infinity'::timestamptz END"
    )


def readable_interval(column: str) -> str:
    """Return the SQL of a stored timeout. An unreadable timeout becomes negative."""
    return (
        f"CASE WHEN {column} IS NULL OR ({sound_interval(column)}) THEN {column} "
        "ELSE '-1 second'::interval END"
    )


def clamped(column: str) -> str:
    """Return the SQL of the nearest time that a submitter can request."""
    return (
        f"least(greatest({column}, '1970-01-01 00:00:00+00'::timestamptz), "
        "'9999-12-30 23:59:59.999999+00'::timestamptz)"
    )
