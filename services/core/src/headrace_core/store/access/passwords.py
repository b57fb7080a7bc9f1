"""The stored form of passwords: Argon2id, with its parameters and salt (RFC 9106)."""

from __future__ import annotations

from typing import Final

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from headrace_core.domain.user import normalize_password

# The minimum that OWASP recommends for Argon2id: 19 MiB, two passes, one thread.
_HASHER: Final = PasswordHasher(
    time_cost=2, memory_cost=19 * 1024, parallelism=1, hash_len=32, salt_len=16, type=Type.ID
)
# A hash that no password matches. Logins of unknown users are verified against it, so they take as
# long as logins of known users.
_UNKNOWN_USER_HASH: Final = (
    "$argon2id$v=19$m=19456,t=2,p=1$aGVhZHJhY2UgbG9naW5zIQ"
    "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)


def hash_password(password: str) -> str:
    """Return the hash of a password; computing it takes about 20 ms and 19 MiB."""
    return _HASHER.hash(normalize_password(password))


def verify_password(password_hash: str | None, password: str) -> bool:
    """Return whether a password matches its hash.

    Args:
        password_hash: the stored hash; None for an unknown user, for whom the result is False.
        password: the password that the caller sent.
    """
    try:
        _HASHER.verify(password_hash or _UNKNOWN_USER_HASH, normalize_password(password))
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


def is_outdated(password_hash: str) -> bool:
    """Return whether the parameters of a hash differ from those of new hashes."""
    return _HASHER.check_needs_rehash(password_hash)
