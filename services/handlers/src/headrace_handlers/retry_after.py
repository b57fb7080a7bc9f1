"""The Retry-After header (RFC 9110, section 10.2.3): seconds, or a date."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# A server cannot put a job off for longer than this.
MAX_WAIT = timedelta(hours=24)


def server_time(headers: Mapping[str, str]) -> datetime:
    """When a response was sent, by its server's clock, or by ours when it doesn't say.

    A date of that server means what it means by its own clock, however wrong either one is.
    """
    try:
        sent = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return datetime.now(UTC)
    return sent if sent.tzinfo else sent.replace(tzinfo=UTC)


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """How long a server wants to be left alone, 0 to 24 hours.

    Args:
        value: the header; None when there is none.
        now: the current time, with a time zone: what a date is measured against.

    Returns:
        The wait, or None when the header says nothing that can be understood.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        # More digits than this would not fit in a timedelta, and are beyond the maximum anyway.
        wait = timedelta(seconds=int(value)) if len(value) < 10 else MAX_WAIT
    else:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        # An HTTP date is in GMT, also where the sender left the zone out.
        wait = (date if date.tzinfo else date.replace(tzinfo=UTC)) - now
    return min(MAX_WAIT, max(timedelta(), wait))
