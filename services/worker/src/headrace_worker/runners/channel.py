"""The descriptors by which the process of isolated handlers reaches its worker."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_STANDARD_ERROR = 2


class Channel:
    """Takes the place of standard input and output, which are left to the handlers.

    A handler then reads nothing from standard input, and what it prints goes to standard error.

    Attributes:
        source: the worker's messages.
        sink: the messages to the worker.
    """

    def __init__(self) -> None:
        descriptors = os.dup(sys.stdin.fileno()), os.dup(sys.stdout.fileno())
        self._opened = [(descriptor, os.fstat(descriptor)) for descriptor in descriptors]
        self.source: BinaryIO = os.fdopen(descriptors[0], "rb")
        self.sink: BinaryIO = os.fdopen(descriptors[1], "wb")
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, sys.stdin.fileno())
        os.close(nowhere)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._close_copies()
        os.register_at_fork(after_in_child=self._detach)

    @property
    def is_intact(self) -> bool:
        """Whether both descriptors are still what they were."""
        with suppress(OSError):
            return all(
                os.path.samestat(os.fstat(descriptor), opened)
                for descriptor, opened in self._opened
            )
        return False

    def fill_standard_descriptors(self) -> None:
        """Open those of 0 to 2 that a handler has closed.

        Whatever is opened next would take their place, and the next handler may close them again.
        """
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)

    def _close_copies(self) -> None:
        """Close what uvloop leaves open of the sink: children would have it."""
        _, (sink, opened) = self._opened
        for descriptor in [int(entry.name) for entry in Path("/dev/fd").iterdir()]:
            # That of the listing itself is closed by now.
            with suppress(OSError):
                if descriptor != sink and os.path.samestat(os.fstat(descriptor), opened):
                    os.close(descriptor)

    def _detach(self) -> None:
        """Leave a forked child no way to the worker, which sees the end of this process by it."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor, _ in self._opened:
            os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)
