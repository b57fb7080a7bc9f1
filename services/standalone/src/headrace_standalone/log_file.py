"""The log of one process: a file that never grows beyond its bound."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# A log and the one before it, each.
MAX_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 16 * 1024


class LogFile:
    """Takes what a process prints.

    Args:
        path: the file; what was in it is kept.
        max_bytes: when it is this large it becomes `PATH.1`, and a new one begins.
        echo: is told each whole line as well.
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
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Appends what was printed. A disk that is full costs the log, and not the process."""
        with suppress(OSError):
            if self._file.tell() + len(data) > self._max_bytes:
                self._file.close()
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                self._file = self._path.open("ab", buffering=0)
            self._file.write(data)
        if self._echo is not None:
            *lines, self._rest = (self._rest + data).split(b"\n")
            # A line without an end must not grow for ever.
            self._rest = self._rest[-_TAIL_BYTES:]
            for line in lines:
                self._echo(line.decode(errors="replace"))

    def tail(self, lines: int = 10) -> str:
        """Its last lines."""
        with self._path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
