"""Public ids of credentials that only this installation can have created.

An id has 64 random bits and 32 bits of an HMAC with the secret of the installation, so a gateway
rejects forged ids, and ids of other installations, without a query.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from typing import Final

# The form of an id, as a regular expression.
SEALED_ID_FORM: Final = "[a-z2-7]{20}"

_SEED_BYTES: Final = 8
_MAC_BYTES: Final = 4
_CHARACTERS: Final = 20


def new_sealed_id(installation_secret: bytes, purpose: bytes, random: bytes | None = None) -> str:
    """Return a new id of an installation for a purpose, such as `api key`.

    Args:
        installation_secret: the secret of the installation.
        purpose: the purpose.
        random: random bytes that determine the id, at least 8; None for new ones.
    """
    seed = (random or secrets.token_bytes(_SEED_BYTES))[:_SEED_BYTES]
    raw = seed + _mac(installation_secret, purpose, seed)
    return base64.b32encode(raw).decode().rstrip("=").lower()


def is_sealed_id(installation_secret: bytes, purpose: bytes, text: str) -> bool:
    """Return whether the installation created this id for this purpose."""
    if len(text) != _CHARACTERS or text != text.lower():
        return False
    try:
        raw = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        return False
    seed, mac = raw[:_SEED_BYTES], raw[_SEED_BYTES:]
    return hmac.compare_digest(mac, _mac(installation_secret, purpose, seed))


def _mac(installation_secret: bytes, purpose: bytes, seed: bytes) -> bytes:
    return hmac.digest(installation_secret, purpose + b"\0" + seed, "sha256")[:_MAC_BYTES]
