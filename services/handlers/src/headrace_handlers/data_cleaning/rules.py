"""The declared rules: which values break which, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from headrace_handlers.data_cleaning.columns import check_format, literal, typed
from headrace_handlers.data_cleaning.options import Cleaning, Rule
from headrace_worker import Fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A table after its rules.

    Args:
        table: the rows that are left, with their values in their types.
        broken: by column and rule, which rows broke it: booleans over the rows as they came in.
        dropped: how many rows were dropped.
        nulled: how many values were made missing.
    """

    table: pl.DataFrame
    broken: dict[str, dict[str, pl.Series]]
    dropped: int
    nulled: int


def check_formats(options: Cleaning) -> None:
    """Checks the formats of dates, before the file is read.

    Raises:
        Fail: a format cannot be used.
    """
    for name, rule in options.rules.items():
        if rule.format is None or rule.type is None:
            continue
        try:
            check_format(rule.format, rule.type)
        except ValueError as error:
            raise Fail(
                f"the format {rule.format!r} of the column {name!r} cannot be used: {error}",
                type="InvalidRule",
            ) from error


def check(table: pl.DataFrame, options: Cleaning) -> Checked:
    """Applies all rules.

    The rules for single values come first. Uniqueness is judged among what they leave, so that a
    row that goes anyway does not take its healthy twin with it.

    Raises:
        Fail: a rule cannot be applied to its column.
    """
    broken: dict[str, dict[str, pl.Series]] = {}
    values: dict[str, pl.Series] = {}
    gone = pl.repeat(value=False, n=table.height, dtype=pl.Boolean, eager=True)
    for name, rule in options.rules.items():
        try:
            values[name] = typed(table[name], rule.type, rule.format)
            broken[name] = _broken(table[name], values[name], rule)
        except pl.exceptions.PolarsError as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise Fail(
                f"the rule of the column {name!r} cannot be applied: {reason}", type="InvalidRule"
            ) from error
        if options.action(name) == "drop":
            gone |= _any(broken[name], table.height)
    for name, rule in options.rules.items():
        if rule.unique:
            out = gone
            if options.action(name) == "null":
                out = gone | _any(broken[name], table.height)
            left = values[name].set(out, None)
            broken[name]["unique"] = left.is_not_null() & ~left.is_first_distinct()
            if options.action(name) == "drop":
                gone |= broken[name]["unique"]
    nulled = 0
    for name in options.rules:
        match options.action(name):
            case "null":
                # What breaks `required` is missing already.
                bad = _any(broken[name], table.height) & table[name].is_not_null()
                nulled += int((bad & ~gone).sum())
                values[name] = values[name].set(bad, None)
            case "report":
                if (broken[name]["type"] & ~gone).any():
                    values[name] = table[name]
    return Checked(
        table=table.with_columns(**values).filter(~gone),
        broken=broken,
        dropped=int(gone.sum()),
        nulled=nulled,
    )


def _broken(source: pl.Series, values: pl.Series, rule: Rule) -> dict[str, pl.Series]:
    """Which values break the rules that look at one value alone. A missing one breaks `required`
    and nothing else.
    """
    broken = {"type": source.is_not_null() & values.is_null()}
    if rule.required:
        broken["required"] = source.is_null()
    if rule.min is not None:
        broken["min"] = (values < literal(rule.min, rule.type)).fill_null(value=False)
    if rule.max is not None:
        broken["max"] = (values > literal(rule.max, rule.type)).fill_null(value=False)
    text = source.cast(pl.String)
    if rule.allowed is not None:
        # Without a declared type, the texts are compared.
        compared = values if rule.type else text
        allowed = pl.Series(
            [literal(value, rule.type) for value in rule.allowed],
            dtype=compared.dtype,
            strict=False,
        )
        broken["allowed"] = compared.is_not_null() & ~compared.is_in(allowed.implode())
    if rule.pattern is not None:
        broken["pattern"] = (~text.str.contains(rf"\A(?:{rule.pattern})\z")).fill_null(value=False)
    return broken


def _any(broken: dict[str, pl.Series], height: int) -> pl.Series:
    result = pl.repeat(value=False, n=height, dtype=pl.Boolean, eager=True)
    for rows in broken.values():
        result |= rows
    return result
