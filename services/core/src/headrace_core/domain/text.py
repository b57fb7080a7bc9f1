"""Free text from handlers and callers, cleaned for the database, logs and terminals."""

from __future__ import annotations

import re
from typing import Final

# Control characters except tab and line feed, and lone surrogates, which UTF-8 cannot encode.
_INVALID_CHARACTER: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_ELLIPSIS: Final = "…"


def clean_text(text: str, limit: int) -> str:
    """Return `text` truncated to `limit` characters, with a `?` in place of each invalid character.

    NUL, other control characters and lone surrogates are invalid: PostgreSQL and UTF-8 reject some
    of them, and terminals interpret the others.
    """
    if len(text) > limit:
        text = text[: limit - 1] + _ELLIPSIS
    return text if text.isprintable() else _INVALID_CHARACTER.sub("?", text)


def clean_line(text: str, limit: int) -> str:
    """Return the cleaned `text` as one line, without surrounding white space."""
    if text.isprintable() and len(text) <= limit:
        return text.strip()
    # Truncate first, so a huge text takes no longer than a long one.
    return clean_text(" ".join(text[: 2 * limit].split()), limit)
