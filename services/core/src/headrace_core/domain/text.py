"""Free text from handlers and callers, cleaned for the database, logs and terminals."""

from __future__ import annotations

import re
from typing import Final

# Control characters except tab and line feed, and lone surrogates, which UTF-8 cannot encode.
_UNFIT: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_CUT: Final = "…"


def clean_text(text: str, limit: int) -> str:
    """Return `text` cut to `limit` characters, with a `?` in place of each unfit character.

    NUL, other control characters and lone surrogates are unfit, because PostgreSQL, UTF-8 or a
    terminal rejects them.
    """
    if len(text) > limit:
        text = text[: limit - 1] + _CUT
    return text if text.isprintable() else _UNFIT.sub("?", text)


def clean_line(text: str, limit: int) -> str:
    """Return the cleaned `text` as one line, without surrounding white space."""
    if text.isprintable() and len(text) <= limit:
        return text.strip()
    # Cut first, so that a huge text takes no longer than a long one.
    return clean_text(" ".join(text[: 2 * limit].split()), limit)
