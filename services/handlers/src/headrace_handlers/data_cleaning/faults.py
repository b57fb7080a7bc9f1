"""Errors that name a file. None of them is retried: the file stays as it is."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from headrace_worker import Fail

# Errors of a path or of its permissions. The others (a full disk, a broken one) may pass.
_PERMANENT: Final = frozenset(
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


def unreadable(name: str, reason: str) -> Fail:
    """The file cannot be read as a table."""
    return Fail(f"{name!r} cannot be read: {reason}", type="FileUnreadable")


def too_large(name: str, size: str, limit: int) -> Fail:
    """The table has more bytes than its limit."""
    return Fail(
        f"{name!r} has {size}; HEADRACE_FILES_MAX_BYTES allows {limit} after unpacking",
        type="FileTooLarge",
    )


def too_many_columns(name: str, limit: int) -> Fail:
    """The table has more columns than its limit."""
    return Fail(f"{name!r} has more than {limit} columns", type="FileTooLarge")


@contextmanager
def unwritable(name: str) -> Iterator[None]:
    """Turns an error of writing the file into Fail when another attempt would fail alike."""
    try:
        yield
    except OSError as error:
        if error.errno not in _PERMANENT:
            raise
        raise Fail(
            f"{name!r} cannot be written: {error.strerror}", type="PathNotAllowed"
        ) from error
