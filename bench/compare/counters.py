"""The number of handled jobs, from the handlers' counters; see bench/peers/contract.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.peers.contract import COUNTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """The number of handled jobs, and when the first and the last one ran (`time.monotonic()`)."""

    handled: int
    first: float
    last: float


class Counters:
    """The counters of all workers of a measurement.

    Args:
        folder: the folder for the counter files; initially empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def prefix(self) -> Path:
        """The common prefix of the counter files."""
        return self._folder / "count"

    def read(self) -> Count:
        """Return the sum of all counters."""
        counts = []
        for file in self._folder.iterdir():
            content = file.read_bytes()
            if len(content) == COUNTER.size:
                count = COUNTER.unpack(content)
                if count[0]:
                    counts.append(count)
        if not counts:
            return Count(handled=0, first=0.0, last=0.0)
        handled, first, last = zip(*counts, strict=True)
        return Count(handled=sum(handled), first=min(first) / 1e9, last=max(last) / 1e9)
