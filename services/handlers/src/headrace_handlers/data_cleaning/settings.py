"""Settings of the files, apart from polars, which a worker does not import."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class FilesSettings(BaseSettings):
    """The folder of the files, the largest table and the memory for one job.

    Without HEADRACE_FILES_ROOT the folder is `headrace-files` where the worker was started.
    `max_bytes` limits a table after unpacking, `max_memory` the process that cleans it.
    """

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_FILES_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    root: Path = Path("headrace-files")
    max_bytes: int = Field(1024**3, ge=1)
    # Less than this takes polars to start.
    max_memory: int = Field(4 * 1024**3, ge=256 * 1024**2)
