"""Page tokens and cursors: opaque to clients, signed with the installation's secret.

All are URL-safe base64 of a version, a place and 16 bytes of HMAC-SHA256 over everything that the
place belongs to. What was signed for another tenant, filter or database does not fit.
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
_SIGNATURE: Final = 16
_PLACE: Final = struct.Struct(">QQ")
_SUBSCRIPTION_PLACE: Final = struct.Struct(">16sQQQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionCursor:
    """A place in a subscription, as it was sent in an epoch."""

    subscription_id: SubscriptionId
    epoch: int
    xid: int
    position: int


def encode_page_token(installation: Installation, tenant: str, query: str, last: JobId) -> str:
    """A token for the page behind the job `last`, of the filter with the text `query`."""
    return _seal(installation, "page", tenant, query, last.bytes)


def decode_page_token(
    installation: Installation, tenant: str, query: str, token: str
) -> JobId | None:
    """The job behind which the page begins; None for an empty token, the first page.

    Raises:
        PageTokenInvalid: it was not made here, or for another tenant or filter.
    """
    if not token:
        return None
    place = _open(installation, "page", tenant, query, token)
    if place is None or len(place) != 16:
        raise PageTokenInvalid
    return JobId(UUID(bytes=place))


# The streams that have seen all that there is are at the same place.
@lru_cache(maxsize=16)
def encode_cursor(installation: Installation, tenant: str, xid: int, position: int) -> str:
    """A cursor behind the event at (xid, position) in the order of all events."""
    return _seal(installation, "cursor", tenant, "", _PLACE.pack(xid, position))


def decode_cursor(installation: Installation, tenant: str, cursor: str) -> tuple[int, int]:
    """The (xid, position) of a cursor.

    Raises:
        CursorInvalid: it is malformed, or of another database or tenant.
    """
    place = _open(installation, "cursor", tenant, "", cursor)
    if place is None or len(place) != _PLACE.size:
        raise CursorInvalid
    xid, position = _PLACE.unpack(place)
    return xid, position


def encode_subscription_cursor(
    installation: Installation, tenant: str, cursor: SubscriptionCursor
) -> str:
    """A cursor of a subscription."""
    place = _SUBSCRIPTION_PLACE.pack(
        cursor.subscription_id.bytes, cursor.epoch, cursor.xid, cursor.position
    )
    return _seal(installation, "subscription", tenant, "", place)


def decode_subscription_cursor(
    installation: Installation, tenant: str, cursor: str
) -> SubscriptionCursor:
    """What `encode_subscription_cursor` has sealed.

    Raises:
        CursorInvalid: it is malformed, or of another database or tenant.
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
    """A token for the page behind the name `last`, of subscriptions or of what `of` says."""
    return _seal(installation, "names", tenant, of, last.encode())


def decode_name_token(installation: Installation, tenant: str, token: str, *, of: str = "") -> str:
    """The name behind which the page begins; empty for an empty token, the first page.

    Raises:
        PageTokenInvalid: it was not made here, or for another tenant.
    """
    if not token:
        return ""
    place = _open(installation, "names", tenant, of, token)
    if place is None:
        raise PageTokenInvalid
    return place.decode()


def _sign(installation: Installation, kind: str, tenant: str, query: str, place: bytes) -> bytes:
    # The lengths keep the parts apart.
    parts = (kind.encode(), installation.id.bytes, tenant.encode(), query.encode(), place)
    message = b"".join(len(part).to_bytes(4) + part for part in parts)
    return hmac.digest(installation.secret, _VERSION + message, "sha256")[:_SIGNATURE]


def _seal(installation: Installation, kind: str, tenant: str, query: str, place: bytes) -> str:
    signature = _sign(installation, kind, tenant, query, place)
    return base64.urlsafe_b64encode(_VERSION + place + signature).rstrip(b"=").decode()


def _open(
    installation: Installation, kind: str, tenant: str, query: str, token: str
) -> bytes | None:
    """The place that was sealed for exactly this; None when the token is another or none at all."""
    if len(token) > 200:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    if raw[:1] != _VERSION:
        return None
    place, signature = raw[1:-_SIGNATURE], raw[-_SIGNATURE:]
    expected = _sign(installation, kind, tenant, query, place)
    return place if hmac.compare_digest(signature, expected) else None
