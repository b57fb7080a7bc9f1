"""The depth of documents: how many levels of objects and lists they have."""

from __future__ import annotations

import re
from typing import Any, Final

from headrace_core.domain.errors import LimitExceeded
from headrace_gateway.calls.limits import MAX_DEPTH

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


class TooDeep(ValueError):
    """A document has more than MAX_DEPTH levels; `depth` is how many it has."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.depth = depth


def depth_of(content: Any) -> int:
    """Return the number of levels of objects and lists of a decoded document."""
    depth, level = 0, [content]
    while level := [item for item in level if type(item) is dict or type(item) is list]:
        depth += 1
        level = [
            child for item in level for child in (item.values() if type(item) is dict else item)
        ]
    return depth


def depth_of_text(raw: bytes) -> int:
    """Return the number of levels of JSON text, which may be too deep for a decoder."""
    depth = deepest = 0
    for byte in _STRING.sub(b"", raw):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def too_deep(path: str, depth: int) -> LimitExceeded:
    """Return the error of a document with more than MAX_DEPTH levels.

    Args:
        path: of the field that has the document.
        depth: the levels of the document.
    """
    return LimitExceeded(
        path, limit="nesting depth", maximum=MAX_DEPTH, actual=depth, unit="levels of nesting"
    )
