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
        The message and its size. If the message exceeds `maximum`, it is empty, and its size is the
        size that the sender claims, or `maximum` + 1 if that is larger.

    Raises:
        CorruptRequest: the message is incomplete or corrupt.
    """
    unpacker = zlib.decompressobj(wbits=_GZIP_BITS)
    try:
        message = unpacker.decompress(raw, maximum + 1)
    except zlib.error as error:
        raise CorruptRequest from error
    if len(message) > maximum:
        claimed = int.from_bytes(raw[-4:], "little")
        return b"", max(claimed, maximum + 1)
    if not unpacker.eof or unpacker.unused_data:
        raise CorruptRequest
    return message, len(message)
