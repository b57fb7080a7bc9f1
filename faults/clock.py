"""Clocks that go wrong: libfaketime before a process, and how wrong it is in a file.

The wall clock is changed alone, as it is on a machine; the monotonic one runs on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

# How long a process may go on with what it has read from the file, in seconds.
_CACHED_S = 1
_PATIENCE_S = 30.0
_SHARED = Path("/dev/shm")


class Clock:
    """The wall clock of some processes.

    Args:
        file: says how wrong it is; not at all in the beginning.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to go by this clock."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(_CACHED_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # The times of files are those of the disk.
            "NO_FAKE_STAT": "1",
        }

    def set(self, seconds: float) -> None:
        """Makes it so many seconds fast, or slow; it is so a second later."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+.3f}\n")
        draft.replace(self._file)


def forget(pid: int) -> None:
    """Removes what libfaketime leaves in shared memory of a process that was killed."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        (_SHARED / name).unlink(missing_ok=True)


def why_not(folder: Path) -> str:
    """Why this machine's clocks cannot be changed for a process; nothing when they can.

    Args:
        folder: for a file.
    """
    if _library() is None:
        return "libfaketime is not installed"
    clock = Clock(folder / "clock")
    clock.set(3600)
    tried = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env={**os.environ, **clock.environment},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    try:
        ahead = float(tried.stdout) - time.time()
    except ValueError:
        ahead = 0.0
    return "" if 3500 < ahead < 3700 else "libfaketime does not work on this machine"


def _library() -> Path | None:
    # Not imported: the package would change this process, too.
    package = find_spec("libfaketime")
    if package is None or package.origin is None:
        return None
    file = Path(package.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    return file if file.exists() else None
