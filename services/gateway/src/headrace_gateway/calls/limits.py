"""Limits of requests, responses and metadata; `docs/api.md` describes them for clients."""

from __future__ import annotations

from typing import Final

# gRPC clients reject larger messages by default. Every response fits, whatever its jobs hold.
MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024

# A page ends before the item that would make it larger. One item may be larger: a job has two
# documents, and the rest of it is smaller than 1 MiB.
MAX_PAGE_BYTES: Final = 3 * 1024 * 1024

# The largest document as a Value; a larger one is sent as JSON text. Every payload and every result
# within the default settings fits.
MAX_VALUE_BYTES: Final = 1536 * 1024

# The most levels of objects and lists in a document, in `value` and in `json`. Protobuf decoders
# stop at 100 nested messages: an object takes three of them per level, and up to six are around the
# document.
MAX_DEPTH: Final = 30

# The most metadata of a call: keys and values, and 32 bytes for each pair, as HTTP/2 counts them.
MAX_METADATA_BYTES: Final = 16 * 1024
# gRPC itself rejects calls with more, as RESOURCE_EXHAUSTED, before a link of the gateway runs.
RECEIVED_METADATA_BYTES: Final = 64 * 1024

# The gateway receives requests up to this multiple of the largest one, so that its error can name
# the limit. gRPC itself rejects larger requests, as RESOURCE_EXHAUSTED.
RECEIVED_REQUESTS: Final = 4
