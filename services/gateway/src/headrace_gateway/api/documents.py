"""JSON documents, as text and as Python objects."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from headrace_core.domain.errors import DocumentTooDeep
from headrace_core.domain.job import JsonText
from headrace_core.domain.limits import MAX_DOCUMENT_DEPTH

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)

_decode = msgspec.json.Decoder().decode


class Document(NamedTuple):
    """A document as text (to store) and as Python objects (to validate)."""

    text: JsonText
    content: Any


# The payload of a submitted job: JSON text in UTF-8, or a document that the transport has parsed.
# None is a payload that the transport could not decode and has reported as a violation.
Payload: TypeAlias = bytes | Document | None

EMPTY_OBJECT: Final = Document("{}", {})


def parse_json(raw: bytes, field: str) -> Document:
    """Parse a document; keep its text unchanged.

    Args:
        raw: JSON in UTF-8.
        field: the field path of the document.

    Raises:
        ValueError: the text is not JSON; the message is the description of a violation.
        DocumentTooDeep: the document is nested deeper than `MAX_DOCUMENT_DEPTH`.
    """
    try:
        content = _decode(raw)
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("must be JSON in UTF-8") from None
    except msgspec.MsgspecError as error:
        raise ValueError(f"must be JSON: {error}") from None
    except RecursionError:
        raise DocumentTooDeep(
            field, depth=_depth_of_text(raw), maximum=MAX_DOCUMENT_DEPTH
        ) from None
    # A document with fewer brackets cannot be too deep.
    if raw.count(b"[") + raw.count(b"{") > MAX_DOCUMENT_DEPTH:
        check_depth(content, field)
    return Document(text, content)


def check_depth(content: Any, field: str) -> None:
    """Raise DocumentTooDeep if Python objects are nested deeper than `MAX_DOCUMENT_DEPTH`."""
    depth = _depth_of(content)
    if depth > MAX_DOCUMENT_DEPTH:
        raise DocumentTooDeep(field, depth=depth, maximum=MAX_DOCUMENT_DEPTH)


def canonical_text(text: JsonText) -> JsonText:
    """Return the canonical text of a document, which is identical for documents with equal content.

    The canonical text ignores key order, white space, escapes and number formats: 1, 1.0 and 1e0
    are the same number, and so are 0 and -0.0, as in RFC 8785.
    """
    return _encode_sorted(_decode_integers(text)).decode()


def _parse_number(number: str) -> int | float:
    value = float(number)
    return int(value) if value.is_integer() else value


_decode_integers = msgspec.json.Decoder(float_hook=_parse_number).decode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


def _depth_of(content: Any) -> int:
    """Return the nesting depth of Python objects."""
    depth, level = 0, [content]
    while level := [item for item in level if type(item) is dict or type(item) is list]:
        depth += 1
        level = [
            child for item in level for child in (item.values() if type(item) is dict else item)
        ]
    return depth


def _depth_of_text(raw: bytes) -> int:
    """Return the nesting depth of JSON text, which can be too deep for the decoder."""
    depth = deepest = 0
    for byte in _STRING.sub(b"", raw):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
