"""The quality report: what the file looks like, in numbers. It holds no value of the file."""

from __future__ import annotations

from typing import Annotated

import polars as pl
from msgspec import Meta, Struct

from headrace_handlers.data_cleaning.rules import Checked

SAMPLES = 5


class Violations(Struct, frozen=True):
    """How often a rule was broken, and where first: rows of the input, the first after the header
    being 1.
    """

    count: int
    rows: Annotated[list[int], Meta(max_length=SAMPLES)]


class ColumnReport(Struct, frozen=True):
    """A column of the output. `type` is as polars names it, `violations` go by rule."""

    name: str
    type: str
    nulls: int
    distinct: int
    violations: dict[str, Violations]


class QualityReport(Struct, frozen=True):
    """The report, as it is written beside the output."""

    input: str
    output: str
    rows_in: int
    rows_out: int
    duplicates_removed: int
    rows_dropped: int
    values_nulled: int
    columns: list[ColumnReport]


def column_reports(checked: Checked, rows: pl.Series) -> list[ColumnReport]:
    """A report for each column.

    Args:
        checked: the table after its rules.
        rows: the numbers that the rows which the rules judged have in the input.
    """
    return [
        ColumnReport(
            name=column.name,
            type=str(column.dtype),
            nulls=column.null_count(),
            distinct=column.drop_nulls().n_unique(),
            violations={
                rule: Violations(
                    count=int(broken.sum()), rows=rows.filter(broken).head(SAMPLES).to_list()
                )
                for rule, broken in checked.broken.get(column.name, {}).items()
                if broken.any()
            },
        )
        for column in checked.table.iter_columns()
    ]
