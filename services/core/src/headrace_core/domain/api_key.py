"""The form of API keys: `hr_ID_SECRET`.

The id is a sealed id (see `sealed_id`). The secret has 256 random bits, so storing its SHA-256 is
safe.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from typing import Final, NamedTuple

from headrace_core.domain.sealed_id import SEALED_ID_FORM, is_sealed_id, new_sealed_id

API_KEY_PREFIX: Final = "hr_"

_PURPOSE: Final = b"api key"
_ALPHABET: Final = string.ascii_letters + string.digits
# 43 characters from an alphabet of 62 have 256 bits.
_SECRET: Final = 43
_FORM: Final = re.compile(rf"hr_({SEALED_ID_FORM})_([A-Za-z0-9]{{{_SECRET}}})").fullmatch


class NewApiKey(NamedTuple):
    """A new key: its id, the hash of its secret, and the complete key."""

    id: str
    secret_hash: bytes
    text: str


def new_api_key(installation_secret: bytes, seed: bytes | None = None) -> NewApiKey:
    """Return a new key of an installation.

    Args:
        installation_secret: the secret of the installation.
        seed: 32 secret bytes that determine the key; None for random ones.
    """
    seed = seed or secrets.token_bytes(32)
    key_id = new_sealed_id(installation_secret, _PURPOSE, hmac.digest(seed, b"id", "sha256"))
    secret = _encode(hmac.digest(seed, b"secret", "sha256"))
    return NewApiKey(key_id, _hash(secret), f"{API_KEY_PREFIX}{key_id}_{secret}")


def read_api_key(installation_secret: bytes, text: str) -> tuple[str, bytes] | None:
    """Return the id of a key and the hash of its secret.

    Returns:
        None if the text is not a key of this installation.
    """
    match = _FORM(text)
    if match is None or not is_sealed_id(installation_secret, _PURPOSE, match[1]):
        return None
    return match[1], _hash(match[2])


def _encode(secret: bytes) -> str:
    """Return 32 bytes as text of letters and digits."""
    number, text = int.from_bytes(secret), ""
    for _ in range(_SECRET):
        number, digit = divmod(number, len(_ALPHABET))
        text += _ALPHABET[digit]
    return text


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
