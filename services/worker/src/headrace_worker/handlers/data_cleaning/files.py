"""Files below one folder: where they may lie, how they are read, and written all at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

import polars as pl
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace_worker.outcome import Fail

Format = Literal["csv", "parquet"]

_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


class FilesSettings(BaseSettings):
    """Where the files of jobs lie, and how large one may be.

    Without HEADRACE_FILES_ROOT it is the folder `headrace-files` where the worker was started.
    """

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_FILES_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    root: Path = Path("headrace-files")
    max_bytes: int = Field(1024**3, ge=1)


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

    def read(self, path: Path, kind: Format, *, separator: str) -> pl.DataFrame:
        """Reads a table. Everything in a CSV file is text.

        Raises:
            Fail: there is no such file, it is too large, or it is no such table.
        """
        name = self.name(path)
        if not path.is_file():
            raise Fail(f"there is no file {name!r}", type="FileUnreadable")
        try:
            size = path.stat().st_size
            if size > self._max_bytes:
                raise Fail(
                    f"{name!r} has {size} bytes; HEADRACE_FILES_MAX_BYTES allows {self._max_bytes}",
                    type="FileTooLarge",
                )
            if kind == "parquet":
                return pl.read_parquet(path, glob=False, hive_partitioning=False)
            return pl.read_csv(path, separator=separator, infer_schema=False, glob=False)
        except OSError as error:
            raise Fail(
                f"{name!r} cannot be read: {error.strerror}", type="FileUnreadable"
            ) from error
        # A damaged Parquet file can make polars panic, which is no Exception.
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise Fail(
                f"{name!r} cannot be read as {kind.upper()}: {reason}", type="FileUnreadable"
            ) from error


def format_of(path: Path) -> Format | None:
    """The format that a file's suffix tells."""
    return _FORMATS.get(path.suffix.lower())


def write_at_once(path: Path, tag: str, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that its name never stands for a part of it, not after a crash either.

    Args:
        path: the file; its folder is made when it is missing, and what was there is replaced.
        tag: makes the name of the unfinished file the writer's own.
        write: writes to the open file.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{tag}.tmp")
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
