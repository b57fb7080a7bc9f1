"""How large responses are: `docs/api.md` describes these limits for clients."""

from __future__ import annotations

from typing import Final

# gRPC clients refuse a larger message unless they are told otherwise. Each response of each call
# fits, whatever jobs hold.
MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024

# A page ends before another item would make it larger than this. A single item may be larger: a job
# has two documents, and everything else of it comes to less than 1 MiB.
MAX_PAGE_BYTES: Final = 3 * 1024 * 1024

# The largest document as a Value; a larger one is written as its JSON text. Every payload and every
# result within the default settings fits.
MAX_VALUE_BYTES: Final = 1536 * 1024

# How many levels of objects and lists a document may have, in `value` and in `json`. Decoders of
# protobuf stop at 100 nested messages; an object takes three of them per level, and up to six are
# around the document.
MAX_DEPTH: Final = 30

# The most metadata of a call: keys and values, and 32 bytes for each pair, as HTTP/2 counts them.
# gRPC itself refuses more than the second number, as RESOURCE_EXHAUSTED and before anything of the
# gateway sees the call.
MAX_METADATA_BYTES: Final = 16 * 1024
RECEIVED_METADATA_BYTES: Final = 64 * 1024

# How many times the largest request is received, so that the gateway can name the limit. gRPC
# itself refuses more, as RESOURCE_EXHAUSTED.
RECEIVED_REQUESTS: Final = 4
