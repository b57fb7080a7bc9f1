"""Normalization of text and column names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import polars as pl

from headrace_handlers.data_cleaning.options import Normalise


def normalised(table: pl.LazyFrame, options: Normalise, null_values: list[str]) -> pl.LazyFrame:
    """Return the table with renamed columns and normalized text; numbers are unchanged."""
    if options.column_names == "snake_case":
        table = table.rename(snake_case_names(table.collect_schema().names()))
    texts = [name for name, kind in table.collect_schema().items() if kind == pl.String]
    return table.with_columns(
        _with_case(
            _with_nulls(_without_extra_spaces(pl.col(name), options), null_values),
            options.case.get(name),
        )
        for name in texts
    )


def snake_case_names(names: Iterable[str]) -> Mapping[str, str]:
    """Return the new name for each old name. Equal new names are numbered: `name`, `name_2`."""
    renamed: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
        base = re.sub(r"[\W_]+", "_", words).strip("_").lower() or "column"
        new, number = base, 1
        while new in taken:
            number += 1
            new = f"{base}_{number}"
        taken.add(new)
        renamed[name] = new
    return renamed


def _without_extra_spaces(column: pl.Expr, options: Normalise) -> pl.Expr:
    if options.collapse_whitespace:
        column = column.str.replace_all(r"\s+", " ")
    if options.trim:
        column = column.str.strip_chars()
    return column


def _with_case(column: pl.Expr, case: str | None) -> pl.Expr:
    match case:
        case "lower":
            return column.str.to_lowercase()
        case "upper":
            return column.str.to_uppercase()
        case "title":
            return column.str.to_titlecase()
        case _:
            return column


def _with_nulls(column: pl.Expr, null_values: list[str]) -> pl.Expr:
    if not null_values:
        return column
    missing = pl.lit(pl.Series(null_values, dtype=pl.String).implode())
    return pl.when(~column.is_in(missing)).then(column)
