"""Page tokens and cursors: opaque to clients, signed with the installation's secret.

Each token is URL-safe base64 of a version, a place, and 16 bytes of HMAC-SHA256 over the place and
its context. A token of another tenant, filter or database is invalid.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

from headrace_core.domain.errors import CursorInvalid, PageTokenInvalid
from headrace_core.domain.ids import JobId
from headrace_core.domain.subscription import SubscriptionId
from headrace_core.store.sql.installation import Installation

_VERSION: Final = b"\x01"
# The longest token contains a name of a client certificate, which has up to 2,052 characters.
_MAX_TOKEN: Final = 3000
_SIGNATURE_BYTES: Final = 16
_PLACE: Final = struct.Struct(">QQ")
_SUBSCRIPTION_PLACE: Final = struct.Struct(">16sQQQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionCursor:
    """A place in a subscription, and the epoch in which its cursor was sent."""

    subscription_id: SubscriptionId
    epoch: int
    xid: int
    position: int


def encode_page_token(installation: Installation, tenant: str, query: str, last: JobId) -> str:
    """Return the token of the page after the job `last`, for the filter `query`."""
    return _seal(installation, "page", tenant, query, last.bytes)


def decode_page_token(
    installation: Installation, tenant: str, query: str, token: str
) -> JobId | None:
    """Return the job that the page starts after; None if the token is empty (the first page).

    Raises:
        PageTokenInvalid: the token is malformed, or belongs to another database, tenant or filter.
    """
    if not token:
        return None
    place = _open(installation, "page", tenant, query, token)
    if place is None or len(place) != 16:
        raise PageTokenInvalid
    return JobId(UUID(bytes=place))


# All streams that have caught up are at the same place, so they share a cursor.
@lru_cache(maxsize=16)
def encode_cursor(installation: Installation, tenant: str, xid: int, position: int) -> str:
    """Return the cursor after the event at (xid, position) in the event log."""
    return _seal(installation, "cursor", tenant, "", _PLACE.pack(xid, position))


def decode_cursor(installation: Installation, tenant: str, cursor: str) -> tuple[int, int]:
    """Return the (xid, position) of a cursor.

    Raises:
        CursorInvalid: the cursor is malformed, or belongs to another database or tenant.
    """
    place = _open(installation, "cursor", tenant, "", cursor)
    if place is None or len(place) != _PLACE.size:
        raise CursorInvalid
    xid, position = _PLACE.unpack(place)
    return xid, position


def encode_subscription_cursor(
    installation: Installation, tenant: str, cursor: SubscriptionCursor
) -> str:
    """Return the cursor of a place in a subscription."""
    place = _SUBSCRIPTION_PLACE.pack(
        cursor.subscription_id.bytes, cursor.epoch, cursor.xid, cursor.position
    )
    return _seal(installation, "subscription", tenant, "", place)


def decode_subscription_cursor(
    installation: Installation, tenant: str, cursor: str
) -> SubscriptionCursor:
    """Return the place of a subscription cursor.

    Raises:
        CursorInvalid: the cursor is malformed, or belongs to another database or tenant.
    """
    place = _open(installation, "subscription", tenant, "", cursor)
    if place is None or len(place) != _SUBSCRIPTION_PLACE.size:
        raise CursorInvalid
    subscription_id, epoch, xid, position = _SUBSCRIPTION_PLACE.unpack(place)
    return SubscriptionCursor(
        subscription_id=SubscriptionId(UUID(bytes=subscription_id)),
        epoch=epoch,
        xid=xid,
        position=position,
    )


def encode_name_token(installation: Installation, tenant: str, last: str, *, of: str = "") -> str:
    """Return the token of the page after the name `last`; `of` is the kind of list."""
    return _seal(installation, "names", tenant, of, last.encode())


def decode_name_token(installation: Installation, tenant: str, token: str, *, of: str = "") -> str:
    """Return the name that the page starts after; empty if the token is empty (the first page).

    Raises:
        PageTokenInvalid: the token is malformed, or belongs to another database, tenant or list.
    """
    if not token:
        return ""
    place = _open(installation, "names", tenant, of, token)
    if place is None:
        raise PageTokenInvalid
    return place.decode()


def _sign(installation: Installation, kind: str, tenant: str, query: str, place: bytes) -> bytes:
    # The length prefixes make the boundaries between the parts unambiguous.
    parts = (kind.encode(), installation.id.bytes, tenant.encode(), query.encode(), place)
    message = b"".join(len(part).to_bytes(4) + part for part in parts)
    return hmac.digest(installation.secret, _VERSION + message, "sha256")[:_SIGNATURE_BYTES]


def _seal(installation: Installation, kind: str, tenant: str, query: str, place: bytes) -> str:
    signature = _sign(installation, kind, tenant, query, place)
    return base64.urlsafe_b64encode(_VERSION + place + signature).rstrip(b"=").decode()


def _open(
    installation: Installation, kind: str, tenant: str, query: str, token: str
) -> bytes | None:
    """Return the place of a token; None if the token is invalid in this context."""
    if len(token) > _MAX_TOKEN:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    if raw[:1] != _VERSION:
        return None
    place, signature = raw[1:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
    expected = _sign(installation, kind, tenant, query, place)
    return place if hmac.compare_digest(signature, expected) else None
