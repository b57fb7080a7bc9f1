"""The quality report: statistics about the file, which contain none of its values."""

from __future__ import annotations

from typing import Annotated

import polars as pl
from msgspec import Meta, Struct

from headrace_handlers.data_cleaning.rules import Checked

SAMPLES = 5


class Violations(Struct, frozen=True):
    """The number of violations of a rule, and the first rows that violate it.

    `rows` contains row numbers of the input; row 1 is the first row after the header.
    """

    count: int
    rows: Annotated[list[int], Meta(max_length=SAMPLES)]


class ColumnReport(Struct, frozen=True):
    """A column of the output: `type` is a polars type, and `violations` has one key per rule."""

    name: str
    type: str
    nulls: int
    distinct: int
    violations: dict[str, Violations]


class QualityReport(Struct, frozen=True):
    """The report, which is written beside the output."""

    input: str
    output: str
    rows_in: int
    rows_out: int
    duplicates_removed: int
    rows_dropped: int
    values_nulled: int
    columns: list[ColumnReport]


def column_reports(checked: Checked, rows: pl.Series) -> list[ColumnReport]:
    """Return a report for each column.

    Args:
        checked: the table after the rules were applied.
        rows: the input row numbers of the checked rows.
    """
    return [
        ColumnReport(
            name=column.name,
            type=str(column.dtype),
            nulls=column.null_count(),
            distinct=column.drop_nulls().n_unique(),
            violations={
                rule: Violations(
                    count=int(violating.sum()), rows=rows.filter(violating).head(SAMPLES).to_list()
                )
                for rule, violating in checked.violations.get(column.name, {}).items()
                if violating.any()
            },
        )
        for column in checked.table.iter_columns()
    ]
