"""The file descriptors that connect a handler process to its worker."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_STANDARD_ERROR = 2


class Channel:
    """Move the worker's pipes away from standard input and output, which handlers may use.

    A handler then reads an empty standard input, and its standard output is redirected to standard
    error.

    Attributes:
        source: the stream of messages from the worker.
        sink: the stream of messages to the worker.
    """

    def __init__(self) -> None:
        descriptors = os.dup(sys.stdin.fileno()), os.dup(sys.stdout.fileno())
        self._opened = [(descriptor, os.fstat(descriptor)) for descriptor in descriptors]
        self.source: BinaryIO = os.fdopen(descriptors[0], "rb")
        self.sink: BinaryIO = os.fdopen(descriptors[1], "wb")
        devnull = os.open(os.devnull, os.O_RDONLY)
        os.dup2(devnull, sys.stdin.fileno())
        os.close(devnull)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._close_copies()
        os.register_at_fork(after_in_child=self._detach)

    @property
    def is_intact(self) -> bool:
        """True if both descriptors still refer to the pipes."""
        with suppress(OSError):
            return all(
                os.path.samestat(os.fstat(descriptor), opened)
                for descriptor, opened in self._opened
            )
        return False

    def fill_standard_descriptors(self) -> None:
        """Reopen the standard descriptors that a handler has closed.

        Otherwise the next opened file would get such a descriptor, and the next handler could close
        that file.
        """
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)

    def _close_copies(self) -> None:
        """Close the copies of the sink that uvloop leaves open. Children would inherit them."""
        _, (sink, opened) = self._opened
        for descriptor in [int(entry.name) for entry in Path("/dev/fd").iterdir()]:
            # The descriptor of the directory listing itself is already closed.
            with suppress(OSError):
                if descriptor != sink and os.path.samestat(os.fstat(descriptor), opened):
                    os.close(descriptor)

    def _detach(self) -> None:
        """Detach a forked child from the pipes, so that they close when this process dies."""
        devnull = os.open(os.devnull, os.O_RDWR)
        for descriptor, _ in self._opened:
            os.dup2(devnull, descriptor, inheritable=False)
        os.close(devnull)
