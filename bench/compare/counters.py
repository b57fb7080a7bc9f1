"""How many jobs were handled: the counters that handlers write; see bench/peers/contract.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.peers.contract import COUNTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many, and when the first and the last were, in seconds of `time.monotonic()`."""

    handled: int
    first: float
    last: float


class Counters:
    """The counters of all workers of a measurement.

    Args:
        folder: where they lie; it is empty at first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def prefix(self) -> Path:
        """What the file of each process begins with."""
        return self._folder / "count"

    def read(self) -> Count:
        """What they say now."""
        said = []
        for file in self._folder.iterdir():
            content = file.read_bytes()
            if len(content) == COUNTER.size:
                count = COUNTER.unpack(content)
                if count[0]:
                    said.append(count)
        if not said:
            return Count(handled=0, first=0.0, last=0.0)
        handled, first, last = zip(*said, strict=True)
        return Count(handled=sum(handled), first=min(first) / 1e9, last=max(last) / 1e9)
