"""SQL for readable times: finite, and within the range of Python and protobuf.

The driver raises an error when it decodes a time outside this range, so the whole statement fails.
Statements therefore return stored times through `readable_time_sql`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from headrace_core.domain.limits import MAX_DURATION

# The driver decodes the first and the last time of Python's range as infinite. Both are excluded.
_LOWER_BOUND: Final = "'0001-01-01 00:00:00+00'::timestamptz"
_UPPER_BOUND: Final = "'9999-12-31 23:59:59.999999+00'::timestamptz"
_MAX_INTERVAL: Final = f"'{MAX_DURATION.days} days'::interval"


def readable_times_condition(columns: Iterable[str]) -> str:
    """Return the condition that all of these times are readable or NULL."""
    return " AND ".join(f"{name} > {_LOWER_BOUND} AND {name} < {_UPPER_BOUND}" for name in columns)


def readable_interval_condition(column: str) -> str:
    """Return the condition that a timeout is positive and readable."""
    return f"{column} > '0'::interval AND {column} <= {_MAX_INTERVAL}"


def finite_condition(column: str) -> str:
    """Return the condition that a double is finite. In PostgreSQL, NaN is above infinity."""
    return f"{column} > '-infinity'::double precision AND {column} < 'infinity'::double precision"


def readable_time_sql(column: str) -> str:
    """Return SQL for a stored time. An unreadable time becomes `infinity`."""
    return (
        f"CASE WHEN {column} IS NULL OR ({readable_times_condition([column])}) THEN {column} "
        "ELSE 'infinity'::timestamptz END"
    )


def readable_interval_sql(column: str) -> str:
    """Return SQL for a stored timeout. An unreadable timeout becomes negative."""
    return (
        f"CASE WHEN {column} IS NULL OR ({readable_interval_condition(column)}) THEN {column} "
        "ELSE '-1 second'::interval END"
    )


def clamped_time_sql(column: str) -> str:
    """Return SQL for the nearest time that a submitter can request."""
    return (
        f"least(greatest({column}, '1970-01-01 00:00:00+00'::timestamptz), "
        "'9999-12-30 23:59:59.999999+00'::timestamptz)"
    )
