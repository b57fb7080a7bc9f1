"""What processes use: CPU time and memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psutil

KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class CpuSample:
    """The CPU seconds of some processes up to a moment."""

    at: float
    seconds: Mapping[str, float]

    def until(self, later: CpuSample) -> dict[str, float]:
        """The share of one core that each has used from this sample to a later one, 1.0 for all."""
        elapsed = later.at - self.at
        return {
            name: (later.seconds[name] - seconds) / elapsed
            for name, seconds in self.seconds.items()
        }

    def microseconds_each(self, later: CpuSample, count: int) -> dict[str, float]:
        """The CPU microseconds for each of `count` things that were done until a later sample."""
        return {
            name: (later.seconds[name] - seconds) * 1e6 / count
            for name, seconds in self.seconds.items()
        }


class CpuMeter:
    """Reads the CPU time of processes, each together with its children.

    Args:
        processes: their ids, one or several, by the names that are reported.
    """

    def __init__(self, processes: Mapping[str, int | Sequence[int]]) -> None:
        self._processes = {
            name: [psutil.Process(pid) for pid in ([pids] if isinstance(pids, int) else pids)]
            for name, pids in processes.items()
        }

    def sample(self) -> CpuSample:
        """What they have used so far."""
        return CpuSample(
            at=time.monotonic(),
            seconds={
                name: sum(_seconds(process) for process in processes)
                for name, processes in self._processes.items()
            },
        )


def proportional_kib(pid: int) -> float:
    """The memory of a process and its children, in KiB; what several share counts once in all."""
    process = psutil.Process(pid)
    total = 0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().pss
    return total / KIB


def resident_kib(pid: int) -> float:
    """The resident memory of a process, in KiB."""
    resident: int = psutil.Process(pid).memory_info().rss
    return resident / KIB


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    # Those of children that have ended count from when they were waited for.
    total: float = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            own = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += own.user + own.system
    return total
