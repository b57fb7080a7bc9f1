"""Files below one folder: allowed paths, reading within limits, and atomic writing."""

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
    too_large,
    too_many_columns,
    unreadable,
    unwritable,
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
    """The folder that a job's files lie in. No name leads out of it, not by `..`, not by a link.

    Args:
        root: the folder; it must exist.
        max_bytes: the largest file that is read.

    Raises:
        Fail: there is no such folder.
    """

    def __init__(self, *, root: Path, max_bytes: int) -> None:
        try:
            self._root = root.resolve(strict=True)
        except OSError as error:
            raise Fail(
                f"there is no folder {root}; HEADRACE_FILES_ROOT names the folder of the files",
                type="NotConfigured",
            ) from error
        self._max_bytes = max_bytes

    def path(self, name: str) -> Path:
        """The file that `name` means, with every link followed.

        Raises:
            Fail: it is outside the folder.
        """
        try:
            path = (self._root / name).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise Fail(f"{name!r} is not a path", type="PathNotAllowed") from error
        if not path.is_relative_to(self._root):
            raise Fail(f"{name!r} lies outside HEADRACE_FILES_ROOT", type="PathNotAllowed")
        return path

    def name(self, path: Path) -> str:
        """A path as it is named below the folder, with forward slashes."""
        return path.relative_to(self._root).as_posix()

    @contextmanager
    def read(self, path: Path, kind: Format, *, separator: str) -> Iterator[pl.LazyFrame]:
        """Opens a table, which is read when the frame is collected. A CSV file is all text.

        Raises:
            Fail: the file is missing, too large or not a table; in the block as well, when
                collecting the frame fails.
        """
        name = self.name(path)
        with _open(path, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > self._max_bytes:
                raise too_large(name, f"{size} bytes", self._max_bytes)
            if kind == "parquet":
                with _unreadable_as(kind, name):
                    yield self._parquet(file, name)
            else:
                with self._csv(file, name, separator) as text, _unreadable_as(kind, name):
                    yield pl.scan_csv(text, separator=separator, infer_schema=False)

    def _csv(self, file: IO[bytes], name: str, separator: str) -> IO[bytes]:
        # Packed text is unpacked into a file.
        with unwritable(name):
            return checked_csv(
                file, name, separator=separator, max_bytes=self._max_bytes, folder=self._root
            )

    def _parquet(self, file: IO[bytes], name: str) -> pl.LazyFrame:
        """A Parquet table within the limits; a few of its bytes can describe many rows."""
        table = pl.scan_parquet(file, hive_partitioning=False)
        kinds = table.collect_schema().dtypes()
        if len(kinds) > MAX_COLUMNS:
            raise too_many_columns(name, MAX_COLUMNS)
        rows = table.select(pl.len()).collect().item()
        size = rows * sum(_width(kind) for kind in kinds)
        if size <= self._max_bytes:
            lengths = table.select(
                cs.string().str.len_bytes().cast(pl.Int64).sum(),
                cs.binary().bin.size().cast(pl.Int64).sum(),
            )
            size += sum(column[0] for column in lengths.collect(engine="streaming").iter_columns())
        if size > self._max_bytes:
            raise too_large(name, f"{rows} rows, about {size} bytes unpacked", self._max_bytes)
        return table


@contextmanager
def _open(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Opens a regular file; a pipe or a device would block or never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Fail(f"there is no file {name!r}", type="FileUnreadable") from error
    except OSError as error:
        raise unreadable(name, error.strerror or "it cannot be opened") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise unreadable(name, "it is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


@contextmanager
def _unreadable_as(kind: Format, name: str) -> Iterator[None]:
    """Turns the errors of polars into one that names the file."""
    try:
        yield
    # A damaged Parquet file can make polars panic, which is not an Exception.
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise unreadable(name, f"it is not {kind.upper()}: {reason}") from error


def _width(kind: pl.DataType) -> int:
    """Bytes that polars takes for a value of a type, without the text that it refers to."""
    return 8 if kind.is_numeric() or kind.is_temporal() or kind == pl.Boolean else 16


def format_of(path: Path) -> Format | None:
    """The format that a file's suffix tells."""
    return _FORMATS.get(path.suffix.lower())


def check_target(path: Path, name: str) -> None:
    """Checks that `path` can be written: it is a regular file, or nothing yet.

    Raises:
        Fail: it cannot.
        OSError: the folder cannot be asked now.
    """
    try:
        with unwritable(name):
            mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise Fail(
            f"{name!r} cannot be written over: it is not a regular file", type="PathNotAllowed"
        )


def write_at_once(path: Path, name: str, tag: str, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that its name never stands for a part of it, not after a crash either.

    Args:
        path: the file; its folder is made when it is missing, and what was there is replaced.
        name: the file's name in errors.
        tag: makes the name of the unfinished file the writer's own.
        write: writes to the open file.

    Raises:
        Fail: its path or the permissions do not allow it.
        OSError: it cannot be written now.
    """
    unfinished = path.with_name(f".{tag}.tmp")
    with unwritable(name):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Exclusive, so that nothing that has the name already is followed or waited for.
            with unfinished.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            with suppress(OSError):
                unfinished.unlink()
