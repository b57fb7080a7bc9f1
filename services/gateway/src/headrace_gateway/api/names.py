"""The forms of types, queues, labels and ids, for every request that has one."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

NAME_RULE: Final = "must be 1 to 100 of a-z, 0-9, _, - and ., beginning with a letter or digit"
LABEL_KEY_RULE: Final = "must be 1 to 63 of a-z, 0-9, _, - and ., beginning with a letter or digit"
LABEL_VALUE_RULE: Final = "must be 0 to 255 characters, none of them NUL"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.\-]{0,99}").fullmatch
_LABEL_KEY: Final = re.compile(r"[a-z0-9][a-z0-9_.\-]{0,62}").fullmatch


def is_name(text: str) -> bool:
    """Whether a type, a queue or a subscription can be called so."""
    return _NAME(text) is not None


def is_label_key(text: str) -> bool:
    """Whether a label can have this key."""
    return _LABEL_KEY(text) is not None


def is_label_value(text: str) -> bool:
    """Whether a label can have this value."""
    return len(text) <= 255 and "\0" not in text


def parse_id(text: str) -> UUID:
    """An id in its canonical form, as 0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15.

    Raises:
        ValueError: it has another form, though it may be a UUID.
    """
    # UUID() passes over hyphens and braces anywhere, and takes capitals.
    value = UUID(text)
    if str(value) != text:
        raise ValueError(text)
    return value
