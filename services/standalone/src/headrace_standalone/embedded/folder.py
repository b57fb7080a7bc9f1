"""The data folder of one stack, with its data, secrets and logs."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace_standalone.embedded import DataFolderInUse


class DataFolder:
    """A data folder that this process has locked. `hold` or `temporary` creates it.

    Attributes:
        path: the absolute path.
        logs: the subfolder for the logs of processes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.logs.mkdir(mode=0o700, exist_ok=True)

    def secret(self, name: str) -> str:
        """Return the secret `name`, created at its first use and stored in a private file."""
        folder = self.path / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        file = folder / name
        if not file.exists():
            # The rename publishes the complete file.
            draft = folder / f"{name}.new"
            draft.unlink(missing_ok=True)
            write_private(draft, secrets.token_urlsafe(32))
            draft.rename(file)
        return file.read_text()

    @classmethod
    @contextmanager
    def hold(cls, path: Path) -> Iterator[DataFolder]:
        """Create the folder if necessary, and lock it.

        Raises:
            DataFolderInUse: another process has locked it.
            OSError: the folder cannot be created or written.
        """
        path = path.absolute()
        path.mkdir(parents=True, exist_ok=True)
        path = path.resolve()
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.read(lock, 20).decode()
                raise DataFolderInUse(path, int(pid) if pid.isdigit() else None) from None
            os.ftruncate(lock, 0)
            os.write(lock, str(os.getpid()).encode())
            yield cls(path)
        finally:
            os.close(lock)

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[DataFolder]:
        """Create and lock a temporary folder, and delete it with its content at the end."""
        path = Path(tempfile.mkdtemp(prefix="headrace-"))
        try:
            with cls.hold(path) as folder:
                yield folder
        finally:
            shutil.rmtree(path, ignore_errors=True)


def write_private(file: Path, text: str) -> None:
    """Write a new file that only its owner can ever read.

    Raises:
        FileExistsError: the file exists.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as stream:  # noqa: PTH123 - a descriptor, not a path
        stream.write(text)
