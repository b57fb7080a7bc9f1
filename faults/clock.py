"""Wrong wall clocks: libfaketime is preloaded into a process and reads the offset from a file.

Only the wall clock is wrong; the monotonic clock stays right, as on a real machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

# The time for which a process caches the offset, in seconds.
_CACHE_S = 1
_TIMEOUT_S = 30.0
_SHARED_MEMORY = Path("/dev/shm")


class Clock:
    """A wall clock that several processes share.

    Args:
        file: the file for the offset, which starts at zero.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a process with this clock."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(_CACHE_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Do not shift file timestamps.
            "NO_FAKE_STAT": "1",
        }

    def set(self, seconds: float) -> None:
        """Set the offset in seconds; processes apply it within a second."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+.3f}\n")
        draft.replace(self._file)


def clean_up(pid: int) -> None:
    """Remove the libfaketime shared memory that a killed process leaves behind."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        (_SHARED_MEMORY / name).unlink(missing_ok=True)


def unsupported_reason(folder: Path) -> str:
    """Return why wrong clocks are not possible on this machine; empty if they are.

    Args:
        folder: a folder for a temporary file.
    """
    if _library() is None:
        return "libfaketime is not installed"
    clock = Clock(folder / "clock")
    clock.set(3600)
    child = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env={**os.environ, **clock.environment},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    try:
        ahead = float(child.stdout) - time.time()
    except ValueError:
        ahead = 0.0
    return "" if 3500 < ahead < 3700 else "libfaketime does not work on this machine"


def _library() -> Path | None:
    # An import of the package would change the clock of this process.
    package = find_spec("libfaketime")
    if package is None or package.origin is None:
        return None
    file = Path(package.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    return file if file.exists() else None
