"""The form of refresh tokens: `hrs_` and the base64 of a session id, a secret and a signature.

The signature is an HMAC with the secret of the installation. A gateway therefore rejects forged
tokens without a query. It also recognizes replaced tokens, although only the hashes of the newest
two are stored. The secret of the next token is an HMAC of the previous one, so a repeated call
returns the same token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final
from uuid import UUID

REFRESH_TOKEN_PREFIX: Final = "hrs_"  # noqa: S105 - not a secret

_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_MAC_BYTES: Final = 16
# 64 bytes have 86 characters.
_FORM: Final = re.compile(rf"{REFRESH_TOKEN_PREFIX}([A-Za-z0-9_\-]{{86}})").fullmatch


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token.

    Attributes:
        session_id: the session.
        secret: the random part.
    """

    session_id: UUID
    secret: bytes

    def __repr__(self) -> str:
        return f"RefreshToken(session_id={self.session_id})"

    @property
    def hash(self) -> bytes:
        """The hash to store, 32 bytes."""
        return hashlib.sha256(self.secret).digest()

    def text(self, installation_secret: bytes) -> str:
        """Return the token as clients send it."""
        place = self.session_id.bytes + self.secret
        raw = place + _mac(installation_secret, place)
        return REFRESH_TOKEN_PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def next(self, installation_secret: bytes) -> RefreshToken:
        """Return the token that replaces this one."""
        message = b"next refresh token\0" + self.session_id.bytes + self.secret
        return RefreshToken(self.session_id, hmac.digest(installation_secret, message, "sha256"))


def new_refresh_token(session_id: UUID) -> RefreshToken:
    """Return the first token of a session."""
    return RefreshToken(session_id, secrets.token_bytes(_SECRET_BYTES))


def read_refresh_token(installation_secret: bytes, text: str) -> RefreshToken | None:
    """Parse a token; return None if the text is not a token of this installation."""
    match = _FORM(text)
    if match is None:
        return None
    raw = base64.urlsafe_b64decode(match[1] + "==")
    place, mac = raw[: _ID_BYTES + _SECRET_BYTES], raw[_ID_BYTES + _SECRET_BYTES :]
    if not hmac.compare_digest(mac, _mac(installation_secret, place)):
        return None
    return RefreshToken(UUID(bytes=place[:_ID_BYTES]), place[_ID_BYTES:])


def _mac(installation_secret: bytes, place: bytes) -> bytes:
    return hmac.digest(installation_secret, b"refresh token\0" + place, "sha256")[:_MAC_BYTES]
