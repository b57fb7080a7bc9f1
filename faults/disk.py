"""A small file system in memory that a scenario can fill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK_BYTES = 2**20


class Disk:
    """A mounted file system.

    Attributes:
        path: the mount point.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    @property
    def free_mib(self) -> float:
        """The free space in MiB."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize / 2**20

    def fill(self) -> None:
        """Fill all free space; repeat the call to fill space that was freed meanwhile."""
        with self._filler.open("ab", buffering=0) as file:
            size = _CHUNK_BYTES
            while size:
                try:
                    if file.write(bytes(size)) < size:
                        size //= 2
                except OSError:
                    size //= 2

    def free(self) -> None:
        """Free the filled space."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def disk(path: Path, *, mib: int) -> Iterator[Disk]:
    """Mount a file system of `mib` MiB for the duration of the block.

    Raises:
        OSError: the process has no permission to mount.
    """
    path.mkdir()
    # The user that runs PostgreSQL needs access to the folder.
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


def unsupported_reason(folder: Path) -> str:
    """Return why no disk can be mounted on this machine; empty if one can.

    Args:
        folder: a folder for a temporary mount point.
    """
    try:
        with disk(folder / "disk", mib=1):
            return ""
    except OSError as error:
        return f"cannot mount a file system: {error}"
