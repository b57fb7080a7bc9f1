"""Requests are decompressed up to their limit."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest

from headrace_gateway.calls.compression import CorruptRequest, decompress, is_compressed

MIB = 2**20


@pytest.mark.parametrize("size", [0, 1, 1000, MIB])
def test_message_within_limit_is_decompressed(size: int) -> None:
    message = b"x" * size
    packed = gzip.compress(message)
    assert is_compressed(packed)
    assert decompress(packed, maximum=MIB) == (message, size)


def test_bomb_is_not_decompressed_beyond_limit() -> None:
    packed = gzip.compress(bytes(64 * MIB))
    tracemalloc.start()
    try:
        assert decompress(packed, maximum=MIB) == (b"", 64 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claimed", [0, 1000, MIB])
def test_bomb_with_a_false_size_is_rejected(claimed: int) -> None:
    packed = gzip.compress(bytes(2 * MIB))[:-4] + claimed.to_bytes(4, "little")
    with pytest.raises(CorruptRequest):
        decompress(packed, maximum=MIB)


_PACKED = gzip.compress(b"x" * 1000, mtime=0)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(b"\x1f\x8b", id="only the first bytes"),
        pytest.param(b"\x1f\x8b not gzip", id="not gzip"),
        pytest.param(_PACKED[:-1], id="incomplete"),
        pytest.param(_PACKED[:-8] + bytes(8), id="wrong checksum"),
        pytest.param(_PACKED + b"more", id="more bytes after the end"),
    ],
)
def test_corrupt_message_is_rejected(packed: bytes) -> None:
    with pytest.raises(CorruptRequest):
        decompress(packed, maximum=MIB)


def test_protobuf_is_not_compressed() -> None:
    assert not is_compressed(b"")
    assert not is_compressed(b"\x0a\x01x")
