"""The log file of a process, with a size limit."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# The size limit of the current file, and of the previous one.
MAX_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 16 * 1024


class LogFile:
    """Receives the output of a process.

    Another program, such as logrotate, can rename, truncate or remove the file at any time. If the
    file was renamed or removed, the next write creates a new file with the same name.

    Args:
        path: the file; its content is kept.
        max_bytes: the size limit. A file that would exceed it is renamed to `PATH.1` first.
        echo: also receives each complete line.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._echo = echo
        self._rest = b""
        self._file: int | None = None
        self._open()

    def write(self, data: bytes) -> None:
        """Append output. If the disk is full, lines are lost but the process continues."""
        with suppress(OSError):
            if self._needs_reopening():
                self.close()
                self._open()
            assert self._file is not None
            if os.fstat(self._file).st_size + len(data) > self._max_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self.close()
                self._open()
            os.write(self._file, data)
        if self._echo is not None:
            *lines, self._rest = (self._rest + data).split(b"\n")
            # Limit the size of an unfinished line.
            self._rest = self._rest[-_TAIL_BYTES:]
            for line in lines:
                self._echo(line.decode(errors="replace"))

    def tail(self, lines: int = 10) -> str:
        """Return the last lines; an empty string if the file is missing."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def close(self) -> None:
        """Close the file; another write would open it again."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o666)

    def _needs_reopening(self) -> bool:
        """Return whether no file is open, or the path no longer names the open file."""
        if self._file is None:
            return True
        try:
            return not os.path.samestat(os.fstat(self._file), self._path.stat())
        except FileNotFoundError:
            return True
