"""Users: people who log in with a password, and the rules of names and passwords."""

from __future__ import annotations

import base64
import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from headrace_core.domain.access import Role, Scope, TenantState

MAX_USER_NAME: Final = 128
USER_NAME_RULE: Final = (
    f"must be 1 to {MAX_USER_NAME} characters of a-z, A-Z, 0-9, _, -, ., + and @, "
    "beginning with a letter or digit"
)
_USER_NAME: Final = re.compile(rf"[a-zA-Z0-9][a-zA-Z0-9_.+@\-]{{0,{MAX_USER_NAME - 1}}}").fullmatch

MIN_PASSWORD: Final = 12
MAX_PASSWORD: Final = 256
# The maximum before normalization, which can shorten a password.
MAX_SENT_PASSWORD: Final = 4 * MAX_PASSWORD
_MIN_DIFFERENT: Final = 6
# The bytes of a random password.
_PASSWORD_BYTES: Final = 18
# A good password may contain a user name shorter than this.
_MIN_FORBIDDEN_NAME: Final = 4

# The bases of the most common passwords, in lowercase. People append digits and symbols to them,
# combine them, and replace letters by similar characters.
_COMMON: Final = (
    *(
        "password",
        "passwort",
        "passphrase",
        "pass",
        "word",
        "secret",
        "private",
        "letmein",
        "login",
    ),
    *(
        "welcome",
        "hello",
        "admin",
        "administrator",
        "root",
        "superuser",
        "user",
        "guest",
        "default",
    ),
    *("changeme", "change", "please", "test", "testing", "demo", "sample", "example", "temp"),
    *("qwertyuiop", "qwertyui", "qwerty", "qwertz", "qwert", "azerty", "asdfghjkl", "asdfgh"),
    *(
        "asdf",
        "zxcvbnm",
        "zxcvbn",
        "zxcv",
        "abcdefghijklmnopqrstuvwxyz",
        "abcdefghijkl",
        "abcdefgh",
    ),
    *("abcdef", "abcd", "abc", "xyz", "qwe", "asd", "zxc", "qaz", "wsx", "edc", "iloveyou", "love"),
    *("monkey", "dragon", "master", "shadow", "sunshine", "princess", "football", "baseball"),
    *("basketball", "superman", "batman", "starwars", "pokemon", "computer", "internet", "server"),
    *("database", "company", "office", "summer", "winter", "spring", "autumn", "january", "monday"),
    *("trustno", "whatever", "freedom", "michael", "jordan", "jennifer", "charlie", "liverpool"),
    *("chelsea", "arsenal", "barcelona", "google", "facebook", "linkedin", "headrace", "postgres"),
    *(
        "q1w2e3r4t5y6",
        "1q2w3e4r5t6y",
        "1q2w3e4r5t",
        "1qaz2wsx3edc",
        "1q2w3e4r",
        "1qaz2wsx",
        "q1w2e3r4",
    ),
)
# The digits and symbols before and after the letters.
_ENDS: Final = re.compile(r"^[\W\d_]+|[\W\d_]+$")
_SIMILAR: Final = str.maketrans("@4031$5!7", "aaoeissit")


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person who logs in, without the password.

    Attributes:
        name: unique within the tenant.
        tenant: the tenant.
        role: the role.
        scope: the restriction of the role.
        disabled: whether logins are rejected.
        created_by: the principal that created the user.
        create_time: the time of creation.
        last_login_time: the time of the last login; None before the first login.
        password_time: the time at which the password was set.
    """

    name: str
    tenant: str
    role: Role
    scope: Scope
    disabled: bool
    created_by: str
    create_time: datetime
    last_login_time: datetime | None
    password_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginCandidate:
    """A user who may log in.

    Attributes:
        user: the user.
        password_hash: the hash to verify.
        tenant_state: the state of the tenant.
        knows_address: whether the user has logged in from this address before.
    """

    user: User
    password_hash: str
    tenant_state: TenantState
    knows_address: bool

    def __repr__(self) -> str:
        return f"LoginCandidate(user={self.user.name!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session of a user, from the login to the logout.

    Attributes:
        id: the id, which is part of the tokens.
        user: the user.
        expire_time: the time at which the session ends.
    """

    id: UUID
    user: User
    expire_time: datetime


def is_user_name(text: str) -> bool:
    """Return whether a user can have this name."""
    return _USER_NAME(text) is not None


def normalize_password(password: str) -> str:
    """Return the normalized password to hash: keyboards encode some letters differently."""
    return unicodedata.normalize("NFKC", password)


def password_problem(password: str, *, user: str) -> str | None:
    """Return the rule that a new password of a user breaks; None if it is acceptable."""
    length = len(password)
    if length <= MAX_SENT_PASSWORD:
        password = normalize_password(password)
        length = len(password)
    if not MIN_PASSWORD <= length <= MAX_PASSWORD:
        return f"has {length} characters; use {MIN_PASSWORD} to {MAX_PASSWORD}"
    if len(set(password)) < _MIN_DIFFERENT:
        return f"must have at least {_MIN_DIFFERENT} different characters"
    text, name = password.casefold(), user.casefold()
    if text == name or (len(name) >= _MIN_FORBIDDEN_NAME and name in text):
        return "must not contain the name of the user"
    base = _ENDS.sub("", text)
    if _is_common(text) or _is_common(base.translate(_SIMILAR)):
        return "is too common; add words or characters that are hard to guess"
    return None


def _is_common(text: str) -> bool:
    """Return whether a text consists of common words, digits and symbols."""
    # For each position: whether the text before it consists of them.
    common = [True] + [False] * len(text)
    for place, character in enumerate(text):
        if not common[place]:
            continue
        if not character.isalpha():
            common[place + 1] = True
        for word in _COMMON:
            if text.startswith(word, place):
                common[place + len(word)] = True
    return common[-1]


def new_password(seed: bytes | None = None) -> str:
    """Return a new password with 144 bits.

    Args:
        seed: at least 18 secret bytes that determine the password; None for random ones.
    """
    raw = (seed or secrets.token_bytes(_PASSWORD_BYTES))[:_PASSWORD_BYTES]
    return base64.urlsafe_b64encode(raw).decode()
