"""The HTTP response body in a job result: text if possible, otherwise base64."""

from __future__ import annotations

import base64
import codecs
import encodings
import re
import zlib
from encodings.aliases import aliases
from typing import Final, Literal

BodyEncoding = Literal["text", "base64"]

# Python's other codecs are not charsets: some compress, some take quadratic time (idna, punycode),
# and UTF-7 can yield surrogates, which JSON cannot represent.
_EXCLUDED_CODECS: Final = {"mbcs", "rot_13", "utf_7"}
_CHARSETS: Final = {"utf_8"}.union(
    *(
        {alias, codec}
        for alias, codec in aliases.items()
        if codec not in _EXCLUDED_CODECS and not codec.endswith("_codec")
    )
)

_CHARSET: Final = re.compile(
    r"""(?:^|[;\s])charset=["']?([\w.:+-]{1,40})(?=["';\s]|$)""", re.IGNORECASE | re.ASCII
)

# zlib detects the gzip or zlib format by the first bytes.
_GZIP_OR_ZLIB: Final = 47


def decompressed(body: bytes, coding: str, *, limit: int) -> tuple[bytes, bool] | None:
    """Return a decompressed body and whether it was cut; None if it cannot be decompressed.

    Args:
        body: the received bytes, which may be incomplete.
        coding: the value of the Content-Encoding header.
        limit: the maximum size of the result, in bytes.
    """
    if not body or coding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return None
    decompressor = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
    try:
        return decompressor.decompress(body, limit), not decompressor.eof
    except zlib.error:
        return None


def charset_of(content_type: str) -> str | None:
    """Return the charset of a Content-Type header, if any."""
    found = _CHARSET.search(content_type)
    return found[1] if found else None


def as_text(body: bytes, charset: str | None, *, is_cut: bool) -> tuple[str, BodyEncoding]:
    """Return a body as text in its charset or in UTF-8, otherwise in base64.

    Args:
        body: the bytes.
        charset: the charset of the response, which may be an unknown one.
        is_cut: True if the last character may be incomplete.
    """
    for name in (charset, "utf-8"):
        # Binary data with NUL is valid in most charsets, but text does not contain NUL.
        text = None if name is None else _decoded(body, name, is_cut=is_cut)
        if text is not None and "\0" not in text:
            return text, "text"
    return base64.b64encode(body).decode(), "base64"


def _decoded(body: bytes, charset: str, *, is_cut: bool) -> str | None:
    if encodings.normalize_encoding(charset).lower() not in _CHARSETS:
        return None
    try:
        return codecs.getincrementaldecoder(charset)("strict").decode(body, not is_cut)
    except (LookupError, UnicodeError):
        return None
