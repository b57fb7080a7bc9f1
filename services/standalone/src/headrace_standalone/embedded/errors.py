"""Why an embedded server cannot run."""

from __future__ import annotations

from pathlib import Path


class EmbeddedServerError(Exception):
    """An embedded server cannot be set up or started; the message says what to do."""


class DataFolderInUse(EmbeddedServerError):
    """Another process keeps its data in this folder.

    Args:
        path: the folder.
        pid: the process; None when it could not be read.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"{path} is in use by {holder}. Stop it, or choose another folder with --data."
        )
