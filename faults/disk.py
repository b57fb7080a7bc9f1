"""A disk of its own for a server, small enough to be filled: a file system in memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STEP = 2**20


class Disk:
    """A mounted file system.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    @property
    def free_mib(self) -> float:
        """How much room there is."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize / 2**20

    def fill(self) -> None:
        """Takes all the room that there is; again for what was freed meanwhile."""
        with self._filler.open("ab", buffering=0) as file:
            size = _STEP
            while size:
                try:
                    if file.write(bytes(size)) < size:
                        size //= 2
                except OSError:
                    size //= 2

    def free(self) -> None:
        """Gives it back."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def disk(path: Path, *, mib: int) -> Iterator[Disk]:
    """Mounts a file system of so many MiB for the length of the block.

    Raises:
        OSError: this process may not.
    """
    path.mkdir()
    # Passable for the user that the server runs as.
    options = f"size={mib}m,mode=0711"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "headrace-faults", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        path.rmdir()
        raise OSError(done.stderr.strip())
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def why_not(folder: Path) -> str:
    """Why there can be none here; nothing when there can be one.

    Args:
        folder: for the place.
    """
    try:
        with disk(folder / "disk", mib=1):
            return ""
    except OSError as error:
        return f"no file system can be mounted: {error}"
