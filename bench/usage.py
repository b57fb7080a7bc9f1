"""CPU time, wake-ups and memory of processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import psutil

KIB: Final = 1024
_SWITCHES: Final = "voluntary_ctxt_switches:"

# The voluntary context switches of each thread, by process id and thread id.
Switches: TypeAlias = Mapping[tuple[int, int], int]


@dataclass(frozen=True, slots=True)
class CpuSample:
    """The CPU seconds of some processes, by name, at the time `at` (`time.monotonic()`)."""

    at: float
    seconds: Mapping[str, float]

    def core_shares(self, later: CpuSample) -> dict[str, float]:
        """Return the share of a core that each process used until `later`; 1.0 is a full core."""
        elapsed = later.at - self.at
        return {
            name: (later.seconds[name] - seconds) / elapsed
            for name, seconds in self.seconds.items()
        }

    def microseconds_each(self, later: CpuSample, count: int) -> dict[str, float]:
        """Return the CPU microseconds per item, by process, for `count` items since this sample."""
        return {
            name: (later.seconds[name] - seconds) * 1e6 / count
            for name, seconds in self.seconds.items()
        }


class CpuMeter:
    """Measures the CPU time of processes and their children.

    Args:
        processes: one or more process ids per reported name.
    """

    def __init__(self, processes: Mapping[str, int | Sequence[int]]) -> None:
        self._processes = {
            name: [psutil.Process(pid) for pid in ([pids] if isinstance(pids, int) else pids)]
            for name, pids in processes.items()
        }

    def sample(self) -> CpuSample:
        """Return the CPU time so far."""
        return CpuSample(
            at=time.monotonic(),
            seconds={
                name: sum(_cpu_seconds(process) for process in processes)
                for name, processes in self._processes.items()
            },
        )

    def switches(self) -> Switches:
        """Return the voluntary context switches so far of all processes and their children.

        A thread that waits makes one, so their number is that of the wake-ups.
        """
        found: dict[tuple[int, int], int] = {}
        for process in (one for processes in self._processes.values() for one in processes):
            for member in (process, *process.children(recursive=True)):
                # A process or a thread may end at any time.
                with suppress(FileNotFoundError, ProcessLookupError):
                    for thread in Path(f"/proc/{member.pid}/task").iterdir():
                        with suppress(FileNotFoundError, ProcessLookupError):
                            found[member.pid, int(thread.name)] = _switches(thread)
        return found


def switches_between(earlier: Switches, later: Switches) -> int:
    """Return the voluntary context switches of the threads that `later` contains."""
    return sum(count - earlier.get(thread, 0) for thread, count in later.items())


def proportional_kib(pid: int) -> float:
    """Return the proportional set size of a process and its children, in KiB."""
    process = psutil.Process(pid)
    total = 0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().pss
    return total / KIB


def resident_kib(pid: int) -> float:
    """Return the resident memory of a process, in KiB."""
    resident: int = psutil.Process(pid).memory_info().rss
    return resident / KIB


def _switches(thread: Path) -> int:
    for line in (thread / "status").read_text().splitlines():
        if line.startswith(_SWITCHES):
            return int(line.removeprefix(_SWITCHES))
    raise ValueError(f"{thread}/status contains no {_SWITCHES}")


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    # The operating system adds an ended child's times once its parent has waited for it.
    total: float = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            own = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += own.user + own.system
    return total
