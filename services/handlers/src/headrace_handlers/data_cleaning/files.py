"""Files in one folder: allowed paths, limited reads and atomic writes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

import polars as pl
from polars import selectors as cs

from headrace_handlers.data_cleaning.csv_file import MAX_COLUMNS, checked_csv
from headrace_handlers.data_cleaning.faults import (
    convert_write_errors,
    too_large_error,
    too_many_columns_error,
    unreadable_error,
)
from headrace_worker import Fail

Format = Literal["csv", "parquet"]

_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


class Files:
    """The folder that contains a job's files. Neither `..` nor a link can leave the folder.

    Args:
        root: the folder; it must exist.
        max_bytes: the maximum size of an input.

    Raises:
        Fail: the folder does not exist.
    """

    def __init__(self, *, root: Path, max_bytes: int) -> None:
        try:
            self._root = root.resolve(strict=True)
        except OSError as error:
            raise Fail(
                f"the folder {root} does not exist; set HEADRACE_FILES_ROOT to an existing folder",
                type="NotConfigured",
            ) from error
        self._max_bytes = max_bytes

    def path(self, name: str) -> Path:
        """Return the path of `name` after following all links.

        Raises:
            Fail: the path is outside the folder.
        """
        try:
            path = (self._root / name).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise Fail(f"{name!r} is not a path", type="PathNotAllowed") from error
        if not path.is_relative_to(self._root):
            raise Fail(f"{name!r} is outside HEADRACE_FILES_ROOT", type="PathNotAllowed")
        return path

    def name(self, path: Path) -> str:
        """Return a path relative to the folder, with forward slashes."""
        return path.relative_to(self._root).as_posix()

    @contextmanager
    def read(self, path: Path, kind: Format, *, separator: str) -> Iterator[pl.LazyFrame]:
        """Open a table lazily: `collect` reads it. All values of a CSV file are text.

        Raises:
            Fail: the file is missing, too large or not a table; also if `collect` fails in the
                block.
        """
        name = self.name(path)
        with _open(path, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > self._max_bytes:
                raise too_large_error(name, f"{size:,} bytes", self._max_bytes)
            if kind == "parquet":
                with _polars_errors_as_unreadable(kind, name):
                    yield self._parquet(file, name)
            else:
                with (
                    self._csv(file, name, separator) as text,
                    _polars_errors_as_unreadable(kind, name),
                ):
                    yield pl.scan_csv(text, separator=separator, infer_schema=False)

    def _csv(self, file: IO[bytes], name: str, separator: str) -> IO[bytes]:
        # Compressed text is decompressed into a file, so this can fail like a write.
        with convert_write_errors(name):
            return checked_csv(
                file, name, separator=separator, max_bytes=self._max_bytes, folder=self._root
            )

    def _parquet(self, file: IO[bytes], name: str) -> pl.LazyFrame:
        """Return the table if it is within the limits. A small file can describe many rows."""
        table = pl.scan_parquet(file, hive_partitioning=False)
        kinds = table.collect_schema().dtypes()
        if len(kinds) > MAX_COLUMNS:
            raise too_many_columns_error(name, MAX_COLUMNS)
        rows = table.select(pl.len()).collect().item()
        size = rows * sum(_width(kind) for kind in kinds)
        if size <= self._max_bytes:
            lengths = table.select(
                cs.string().str.len_bytes().cast(pl.Int64).sum(),
                cs.binary().bin.size().cast(pl.Int64).sum(),
            )
            size += sum(column[0] for column in lengths.collect(engine="streaming").iter_columns())
        if size > self._max_bytes:
            raise too_large_error(
                name, f"{rows:,} rows, about {size:,} bytes decompressed", self._max_bytes
            )
        return table


@contextmanager
def _open(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a regular file, because a pipe or a device could block or never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Fail(f"{name!r} does not exist", type="FileUnreadable") from error
    except OSError as error:
        raise unreadable_error(name, error.strerror or "it cannot be opened") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise unreadable_error(name, "it is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


@contextmanager
def _polars_errors_as_unreadable(kind: Format, name: str) -> Iterator[None]:
    """Convert polars errors to errors that name the file."""
    try:
        yield
    # A damaged Parquet file can make polars panic, which is not an Exception.
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise unreadable_error(name, f"it is not valid {kind.upper()}: {reason}") from error


def _width(kind: pl.DataType) -> int:
    """Return the number of bytes that polars needs for a value, excluding referenced text."""
    return 8 if kind.is_numeric() or kind.is_temporal() or kind == pl.Boolean else 16


def format_of(path: Path) -> Format | None:
    """Return the format for a file's suffix; None if the suffix is unknown."""
    return _FORMATS.get(path.suffix.lower())


def check_target(path: Path, name: str) -> None:
    """Check that `path` can be written: it is a regular file, or does not exist.

    Raises:
        Fail: the path cannot be written.
        OSError: the file system has a temporary error.
    """
    try:
        with convert_write_errors(name):
            mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise Fail(
            f"{name!r} cannot be overwritten: it is not a regular file", type="PathNotAllowed"
        )


def write_atomically(path: Path, name: str, tag: str, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically: its name never refers to an incomplete file, even after a crash.

    Args:
        path: the file. Its folder is created if missing; an existing file is replaced.
        name: the name of the file in errors.
        tag: makes the temporary file's name unique to the writer.
        write: writes to the open file.

    Raises:
        Fail: the path or the permissions do not allow the write.
        OSError: the file system has a temporary error.
    """
    temporary = path.with_name(f".{tag}.tmp")
    with convert_write_errors(name):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Exclusive mode neither follows an existing link nor waits for an existing pipe.
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()
