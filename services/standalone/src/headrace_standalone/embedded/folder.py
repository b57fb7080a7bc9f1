"""The folder that holds everything of one stack: data, secrets and logs."""

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
    """A folder that is ours alone for as long as we hold it; made by `hold` or `temporary`.

    Attributes:
        path: its absolute path.
        logs: the folder in it for the logs of processes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.logs.mkdir(mode=0o700, exist_ok=True)

    def secret(self, name: str) -> str:
        """The secret `name` of this folder, drawn at its first use and kept in a private file."""
        folder = self.path / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        file = folder / name
        if not file.exists():
            # It appears under its name only when it is whole.
            draft = folder / f"{name}.new"
            draft.unlink(missing_ok=True)
            write_private(draft, secrets.token_urlsafe(32))
            draft.rename(file)
        return file.read_text()

    @classmethod
    @contextmanager
    def hold(cls, path: Path) -> Iterator[DataFolder]:
        """Creates the folder if need be and holds it.

        Raises:
            DataFolderInUse: another process holds it.
            OSError: it can be neither created nor written.
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
        """Holds a fresh folder, which is deleted with everything in it afterwards."""
        path = Path(tempfile.mkdtemp(prefix="headrace-"))
        try:
            with cls.hold(path) as folder:
                yield folder
        finally:
            shutil.rmtree(path, ignore_errors=True)


def write_private(file: Path, text: str) -> None:
    """Writes a new file that only its owner can read, from its first moment on.

    Raises:
        FileExistsError: there is such a file.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as stream:  # noqa: PTH123 - a descriptor, not a path
        stream.write(text)
