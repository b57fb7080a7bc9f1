"""Cleaning of tables: CSV or Parquet in, a cleaned file and a quality report out.

The files lie below one folder, HEADRACE_FILES_ROOT. The same input and options give the same
output, so an attempt that runs a second time does no harm. A table needs many times its size in
memory, so each job runs in a process of its own with a memory limit.
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
    """Cleans a CSV or Parquet file: normalises text, removes duplicates, checks declared rules.

    In this order: columns are renamed, text is made alike, null values are recognised, duplicates
    go, the rules are applied; then the cleaned file and a quality report are written, each all at
    once.
    """
    # polars takes most of a second to import; a worker that cleans nothing does without.
    from headrace_handlers.data_cleaning.pipeline import clean  # noqa: PLC0415

    return clean(options, ctx)
