"""The Ed25519 keys (RFC 8032) with which an installation signs its own tokens."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from headrace_core.domain.sealed_id import is_sealed_id, new_sealed_id

# The longest lifetime of a token.
MAX_TOKEN_LIFETIME: Final = timedelta(hours=1)

_PURPOSE: Final = b"signing key"
# A private key is 32 random bytes (RFC 8032, section 5.1.5).
_SEED_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key.

    Attributes:
        id: the public id, which tokens contain; a sealed id.
        seed: the private key, 32 bytes.
        create_time: the time of creation. The newest key signs.
        expire_time: the time after which no token of this key is valid; None while the key may
            sign.
    """

    id: str
    seed: bytes = field(repr=False)
    create_time: datetime
    expire_time: datetime | None = None


def new_signing_key(installation_secret: bytes) -> tuple[str, bytes]:
    """Return the id and the seed of a new random key of an installation."""
    return new_sealed_id(installation_secret, _PURPOSE), secrets.token_bytes(_SEED_BYTES)


def is_signing_key_id(installation_secret: bytes, text: str) -> bool:
    """Return whether the installation created a signing key with this id."""
    return is_sealed_id(installation_secret, _PURPOSE, text)
