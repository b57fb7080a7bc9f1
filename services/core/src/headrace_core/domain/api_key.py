"""The form of API keys: `hr_ID_SECRET`.

The id has 64 random bits and 32 bits of an HMAC with the secret of the installation, so a gateway
rejects invented ids and the keys of other installations without a query. The secret has 256 random
bits, so its SHA-256 is enough to store.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import string
from typing import Final, NamedTuple

API_KEY_PREFIX: Final = "hr_"

_ALPHABET: Final = string.ascii_letters + string.digits
# 43 characters of 62 have 256 bits.
_SECRET: Final = 43
_SEED_BYTES: Final = 8
_MAC_BYTES: Final = 4
_FORM: Final = re.compile(rf"hr_([a-z2-7]{{20}})_([A-Za-z0-9]{{{_SECRET}}})").fullmatch


class NewApiKey(NamedTuple):
    """A new key: its id, the hash of its secret, and the complete key."""

    id: str
    secret_hash: bytes
    text: str


def new_api_key(installation_secret: bytes) -> NewApiKey:
    """Return a new random key of an installation."""
    seed = secrets.token_bytes(_SEED_BYTES)
    key_id = base64.b32encode(seed + _mac(installation_secret, seed)).decode().rstrip("=").lower()
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET))
    return NewApiKey(key_id, _hash(secret), f"{API_KEY_PREFIX}{key_id}_{secret}")


def read_api_key(installation_secret: bytes, text: str) -> tuple[str, bytes] | None:
    """Return the id of a key and the hash of its secret.

    Returns:
        None if the text is not a key of this installation.
    """
    match = _FORM(text)
    if match is None:
        return None
    key_id, secret = match[1], match[2]
    raw = base64.b32decode(key_id.upper() + "=" * (-len(key_id) % 8))
    seed, mac = raw[:_SEED_BYTES], raw[_SEED_BYTES:]
    if not hmac.compare_digest(mac, _mac(installation_secret, seed)):
        return None
    return key_id, _hash(secret)


def _mac(installation_secret: bytes, seed: bytes) -> bytes:
    return hmac.digest(installation_secret, b"api key\0" + seed, "sha256")[:_MAC_BYTES]


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
