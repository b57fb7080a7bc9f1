"""Decompress CSV files up to a limit, and check them for content that polars would misread.

polars reads lone carriage returns as characters and UTF-16 as garbled column names, and it
decompresses any amount of data into memory. Therefore, each file is checked here first, in chunks.
"""

from __future__ import annotations

import codecs
import gzip
import tempfile
import zlib
from pathlib import Path
from typing import IO, Final

from headrace_handlers.data_cleaning.faults import (
    too_large_error,
    too_many_columns_error,
    unreadable_error,
)

MAX_COLUMNS: Final = 10_000

_CHUNK_BYTES: Final = 2**20
_GZIP: Final = b"\x1f\x8b"
# Formats that polars would decompress, by the first bytes of the file (RFC 8878, RFC 1950).
_OTHER_CODECS: Final = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x78\x01": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def checked_csv(
    file: IO[bytes], name: str, *, separator: str, max_bytes: int, folder: Path
) -> IO[bytes]:
    """Return the file itself, or an unnamed file in `folder` with the decompressed text.

    Raises:
        Fail: the file is not CSV text in UTF-8, or it exceeds a limit.
        OSError: `folder` cannot be written.
    """
    checks = _TextChecks(name, separator=separator.encode(), max_bytes=max_bytes)
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    if not packed:
        while chunk := file.read(_CHUNK_BYTES):
            checks.check_chunk(chunk)
        checks.check_end()
        file.seek(0)
        return file
    unpacked: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the caller closes it
    try:
        with gzip.GzipFile(fileobj=file) as source:
            while chunk := _unpack(source, name):
                checks.check_chunk(chunk)
                unpacked.write(chunk)
        checks.check_end()
        unpacked.seek(0)
    except BaseException:
        unpacked.close()
        raise
    return unpacked


def _unpack(source: gzip.GzipFile, name: str) -> bytes:
    try:
        return source.read(_CHUNK_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise unreadable_error(name, f"its gzip data is damaged ({error})") from error


class _TextChecks:
    """The checks of a text that arrives in chunks."""

    def __init__(self, name: str, *, separator: bytes, max_bytes: int) -> None:
        self._name = name
        self._separator = separator
        self._max_bytes = max_bytes
        self._size = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._quoted = False
        # A carriage return at the end of a chunk; its line feed may start the next chunk.
        self._pending = b""
        self._columns = 1
        self._in_header = True

    def check_chunk(self, chunk: bytes) -> None:
        """Check the next chunk."""
        if not self._size:
            self._check_start(chunk)
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise too_large_error(self._name, f"more than {self._max_bytes} bytes", self._max_bytes)
        self._check_encoding(chunk)
        self._check_lines(chunk)

    def check_end(self) -> None:
        """Check the end of the text."""
        self._check_encoding(b"", final=True)
        if self._pending and not self._quoted:
            raise self._lone_return_error()

    def _check_start(self, chunk: bytes) -> None:
        for magic, codec in (*_OTHER_CODECS.items(), (_GZIP, "gzip twice")):
            if chunk.startswith(magic):
                raise unreadable_error(
                    self._name, f"it is compressed with {codec}; use gzip, or decompress it"
                )
        if chunk.startswith(_UTF_16):
            raise unreadable_error(self._name, "it is UTF-16; convert it to UTF-8")

    def _check_encoding(self, chunk: bytes, *, final: bool = False) -> None:
        try:
            self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            raise unreadable_error(self._name, "it is not UTF-8; convert it to UTF-8") from error
        # NUL is valid in UTF-8, but in a text file it indicates UTF-16.
        if b"\0" in chunk:
            raise unreadable_error(
                self._name, "it contains NUL characters; convert it to UTF-8 text"
            )

    def _check_lines(self, chunk: bytes) -> None:
        chunk = self._pending + chunk
        self._pending = b""
        if chunk.endswith(b"\r"):
            chunk, self._pending = chunk[:-1], b"\r"
        has_lone_return = chunk.count(b"\r") != chunk.count(b"\r\n")
        if has_lone_return or self._in_header:
            # Every second part is outside quotes.
            outside = chunk.split(b'"')[int(self._quoted) :: 2]
            if any(part.count(b"\r") != part.count(b"\r\n") for part in outside):
                raise self._lone_return_error()
            self._count_columns(outside)
        self._quoted ^= chunk.count(b'"') % 2 == 1

    def _count_columns(self, outside: list[bytes]) -> None:
        for part in outside if self._in_header else ():
            line, end, _ = part.partition(b"\n")
            self._columns += line.count(self._separator)
            self._in_header = not end
            if end:
                break
        if self._columns > MAX_COLUMNS:
            raise too_many_columns_error(self._name, MAX_COLUMNS)

    def _lone_return_error(self) -> Exception:
        return unreadable_error(
            self._name, "its lines end with CR only; use LF or CRLF line endings"
        )
