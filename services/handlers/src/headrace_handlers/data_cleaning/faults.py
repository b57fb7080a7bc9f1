"""Errors that name a file. They are not retried, because the file would not change."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from headrace_worker import Fail

# Errors of a path or its permissions. Other errors, such as a full disk, may be temporary.
_PERMANENT_ERRNOS: Final = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


def unreadable_error(name: str, reason: str) -> Fail:
    """Return the error for a file that cannot be read as a table."""
    return Fail(f"{name!r} cannot be read: {reason}", type="FileUnreadable")


def too_large_error(name: str, size: str, limit: int) -> Fail:
    """Return the error for a table with too many bytes."""
    return Fail(
        f"{name!r} has {size}; the limit is {limit:,} bytes after decompression "
        "(HEADRACE_FILES_MAX_BYTES)",
        type="FileTooLarge",
    )


def too_many_columns_error(name: str, limit: int) -> Fail:
    """Return the error for a table with too many columns."""
    return Fail(f"{name!r} has more columns than the limit of {limit:,}", type="FileTooLarge")


@contextmanager
def convert_write_errors(name: str) -> Iterator[None]:
    """Convert an error in writing the file to Fail if a retry would fail too."""
    try:
        yield
    except OSError as error:
        if error.errno not in _PERMANENT_ERRNOS:
            raise
        raise Fail(
            f"{name!r} cannot be written: {error.strerror}", type="PathNotAllowed"
        ) from error
