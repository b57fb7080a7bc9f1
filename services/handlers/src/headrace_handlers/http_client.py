"""Outgoing HTTP requests: TLS settings and the Retry-After header."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache

import httpx2

# The maximum wait that a server can request.
MAX_WAIT = timedelta(hours=24)


@cache
def tls_context() -> ssl.SSLContext:
    """Return TLS settings with the system's certificates. Creating them takes 0.1 s."""
    return httpx2.create_ssl_context()


def server_time(headers: Mapping[str, str]) -> datetime:
    """Return the Date of a response by the server's clock; without the header, the local time.

    Dates in Retry-After are relative to the server's clock, even if that clock is wrong.
    """
    try:
        sent = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return datetime.now(UTC)
    return sent if sent.tzinfo else sent.replace(tzinfo=UTC)


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Return the wait in a Retry-After header (RFC 9110, section 10.2.3), 0 to 24 hours.

    Args:
        value: seconds or a date; None if the header is missing.
        now: the current time of the server, with a time zone.

    Returns:
        The wait, or None if the header is missing or malformed.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        # A longer number exceeds the maximum wait, and might overflow a timedelta.
        wait = timedelta(seconds=int(value)) if len(value) < 10 else MAX_WAIT
    else:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        # An HTTP date without a zone is in GMT.
        wait = (date if date.tzinfo else date.replace(tzinfo=UTC)) - now
    return min(MAX_WAIT, max(timedelta(), wait))
