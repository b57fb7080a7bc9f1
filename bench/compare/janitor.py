"""A program that kills the harness's remaining process groups if the harness is killed.

The kernel kills a child with its parent, but not its grandchildren, and a worker may fork. The
harness writes a line per process group to the stdin of this program: `+GROUP` on start, `-GROUP`
on exit. When stdin closes, the program kills all remaining groups. It uses only the standard
library.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Janitor:
    """The harness's handle to the program."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Janitor]:
        """Run the program for the duration of the block."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            yield cls(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    def watch(self, group: int) -> None:
        """Add a process group that must be killed if the harness dies."""
        self._send(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Remove a process group that has ended."""
        self._send(f"-{group}\n")

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()


def kill_group(group: int) -> None:
    """Kill a process group, if it exists."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def main() -> None:
    """Read stdin until it closes, then kill the remaining groups."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        kill_group(group)


if __name__ == "__main__":
    main()
