"""Decompression of requests, bounded by the decompressed size.

gRPC limits only the compressed size of a message, so 16 MiB could become 16 GiB. Therefore, the
server passes messages as they arrived (`grpc.per_message_decompression`).
"""

from __future__ import annotations

import zlib
from typing import Final

# The first bytes of gzip. No protobuf message begins with them, because 7 is not a wire type.
_MAGIC: Final = b"\x1f\x8b"
# With these window bits, zlib accepts only gzip headers.
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS
# The part of a large message that is decompressed to recognize bytes that are not gzip.
_PROBE_BYTES: Final = 1024


class CorruptRequest(Exception):
    """The bytes begin with a gzip header but cannot be decompressed."""


def is_compressed(raw: bytes) -> bool:
    """Return whether a message is compressed with gzip."""
    return raw.startswith(_MAGIC)


def decompress(raw: bytes, *, maximum: int) -> tuple[bytes, int]:
    """Decompress a message.

    Args:
        raw: the compressed message.
        maximum: the maximum size of the message, in bytes.

    Returns:
        The message and its size. If its trailer contains a size above `maximum`, the message is
        empty.

    Raises:
        CorruptRequest: the message is incomplete or corrupt, or has another size than its trailer.
    """
    unpacker = zlib.decompressobj(wbits=_GZIP_BITS)
    # The size of the message (RFC 1952), so a large message costs almost nothing.
    size = int.from_bytes(raw[-4:], "little")
    try:
        message = unpacker.decompress(raw, (size if size <= maximum else _PROBE_BYTES) + 1)
    except zlib.error as error:
        raise CorruptRequest from error
    if size > maximum and not unpacker.eof:
        return b"", size
    if not unpacker.eof or unpacker.unused_data or len(message) != size:
        raise CorruptRequest
    return message, len(message)
