"""Limit the size of results. Received data is cut, because a retry would repeat the request."""

from __future__ import annotations

import bisect
from functools import cache

import msgspec

from headrace_core.runtime.settings import Settings

_QUOTES = len('""')


@cache
def max_result_bytes() -> int:
    """Return the maximum size of a result in bytes, which is constant while a worker runs."""
    return Settings().max_result_bytes


def json_size(value: object) -> int:
    """Return the size of a value in a result, in bytes."""
    return len(msgspec.json.encode(value))


def cut_text(text: str, room: int) -> str:
    """Return the longest prefix of a text that needs at most `room` bytes as a JSON string."""
    sizes = range(len(text) + 1)
    return text[
        : bisect.bisect_right(sizes, max(room, _QUOTES), key=lambda n: json_size(text[:n])) - 1
    ]


def cut_base64(text: str, room: int) -> str:
    """Return the longest prefix of base64 text that needs at most `room` bytes as a JSON string."""
    # Four characters encode three bytes.
    return text[: max(0, room - _QUOTES) // 4 * 4]
