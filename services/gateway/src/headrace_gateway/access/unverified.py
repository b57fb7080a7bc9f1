"""Reads parts of a JWT before anything is verified, to choose the key that verifies them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def read_header(bearer: str) -> Mapping[str, Any]:
    """Return the header of a JWT; empty if it is malformed."""
    return _read_part(bearer, 0)


def read_claims(bearer: str) -> Mapping[str, Any]:
    """Return the claims of a JWT; empty if they are malformed."""
    return _read_part(bearer, 1)


def _read_part(bearer: str, number: int) -> Mapping[str, Any]:
    parts = bearer.split(".", 3)
    if len(parts) != 3:
        return _NOTHING
    part = parts[number]
    try:
        value = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return _NOTHING
    return value if isinstance(value, dict) else _NOTHING
