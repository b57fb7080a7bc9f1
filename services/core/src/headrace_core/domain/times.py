"""The times and durations that a job may have.

Accepted times end one day before the calendar of Python and protobuf does, so that no time zone, no
rounding and no sum with a timeout or a backoff can leave the calendar.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

# The times that a submitter may ask for. Both ends are included.
FIRST_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST_TIME: Final = datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC)
TIME_RULE: Final = "must be a time from 1970-01-01T00:00:00Z to 9999-12-30T23:59:59.999999999Z"

# The longest duration that a handler may set. A job's own timeout and backoffs have lower limits.
MAX_DURATION: Final = timedelta(days=3650)

# Stands for a stored time that no program can read, such as an infinite one.
UNREADABLE_TIME: Final = datetime.max.replace(tzinfo=UTC)
