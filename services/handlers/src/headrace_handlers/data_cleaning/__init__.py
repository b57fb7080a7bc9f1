"""Clean tables: read CSV or Parquet, then write a cleaned file and a quality report.

All files are in one folder, HEADRACE_FILES_ROOT. The same input and options give the same output,
so a repeated attempt is harmless. A table needs many times its file size in memory, so each job
runs in a separate process with a memory limit.
"""

from __future__ import annotations

from datetime import timedelta

from headrace_handlers.data_cleaning.options import Cleaned, Cleaning, FilesSettings
from headrace_worker import SyncContext, handler, require_packages

__all__ = ["Cleaned", "Cleaning", "data_cleaning"]

require_packages("polars", install="headrace-handlers[data]")


@handler(
    "data_cleaning",
    timeout=timedelta(minutes=30),
    isolation="process",
    memory_limit=lambda: FilesSettings().max_memory,
)
def data_cleaning(options: Cleaning, ctx: SyncContext) -> Cleaned:
    """Clean a CSV or Parquet file: normalize text, remove duplicates, check declared rules.

    The steps are: rename columns, normalize text, recognize null values, remove duplicates, apply
    the rules, then write the cleaned file and a quality report, each atomically.
    """
    # Importing polars takes most of a second, so only the jobs that need it import it.
    from headrace_handlers.data_cleaning.pipeline import clean  # noqa: PLC0415

    return clean(options, ctx)
