"""Apply the declared rules: find the values that violate them, and apply the action."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from headrace_handlers.data_cleaning.columns import check_format, converted, literal
from headrace_handlers.data_cleaning.options import Cleaning, Rule
from headrace_worker import Fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A table after the rules were applied.

    Args:
        table: the remaining rows, with their values converted to their types.
        violations: a boolean for each input row, by column and rule; true for a violation.
        dropped: the number of dropped rows.
        nulled: the number of values that were made missing.
    """

    table: pl.DataFrame
    violations: dict[str, dict[str, pl.Series]]
    dropped: int
    nulled: int


def check_formats(options: Cleaning) -> None:
    """Check the date formats before the file is read.

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
    """Apply all rules.

    The rules for single values are applied first. Uniqueness is checked among the remaining rows,
    so a dropped row does not make its valid duplicate a violation.

    Raises:
        Fail: a rule cannot be applied to its column.
    """
    violations: dict[str, dict[str, pl.Series]] = {}
    values: dict[str, pl.Series] = {}
    dropped = pl.repeat(value=False, n=table.height, dtype=pl.Boolean, eager=True)
    for name, rule in options.rules.items():
        try:
            values[name] = converted(table[name], rule.type, rule.format)
            violations[name] = _violations(table[name], values[name], rule)
        except pl.exceptions.PolarsError as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise Fail(
                f"the rule of the column {name!r} cannot be applied: {reason}", type="InvalidRule"
            ) from error
        if options.action(name) == "drop":
            dropped |= _any_violation(violations[name], table.height)
    for name, rule in options.rules.items():
        if rule.unique:
            excluded = dropped
            if options.action(name) == "null":
                excluded = dropped | _any_violation(violations[name], table.height)
            remaining = values[name].set(excluded, None)
            violations[name]["unique"] = remaining.is_not_null() & ~remaining.is_first_distinct()
            if options.action(name) == "drop":
                dropped |= violations[name]["unique"]
    nulled = 0
    for name in options.rules:
        match options.action(name):
            case "null":
                # Values that violate `required` are already missing.
                invalid = _any_violation(violations[name], table.height) & table[name].is_not_null()
                nulled += int((invalid & ~dropped).sum())
                values[name] = values[name].set(invalid, None)
            case "report":
                if (violations[name]["type"] & ~dropped).any():
                    values[name] = table[name]
    return Checked(
        table=table.with_columns(**values).filter(~dropped),
        violations=violations,
        dropped=int(dropped.sum()),
        nulled=nulled,
    )


def _violations(source: pl.Series, values: pl.Series, rule: Rule) -> dict[str, pl.Series]:
    """Return the violations of each rule for single values.

    A missing value violates only `required`.
    """
    violations = {"type": source.is_not_null() & values.is_null()}
    if rule.required:
        violations["required"] = source.is_null()
    if rule.min is not None:
        violations["min"] = (values < literal(rule.min, rule.type)).fill_null(value=False)
    if rule.max is not None:
        violations["max"] = (values > literal(rule.max, rule.type)).fill_null(value=False)
    text = source.cast(pl.String)
    if rule.allowed is not None:
        # Without a declared type, compare the texts.
        compared = values if rule.type else text
        allowed = pl.Series(
            [literal(value, rule.type) for value in rule.allowed],
            dtype=compared.dtype,
            strict=False,
        )
        violations["allowed"] = compared.is_not_null() & ~compared.is_in(allowed.implode())
    if rule.pattern is not None:
        violations["pattern"] = (~text.str.contains(rf"\A(?:{rule.pattern})\z")).fill_null(
            value=False
        )
    return violations


def _any_violation(violations: dict[str, pl.Series], height: int) -> pl.Series:
    result = pl.repeat(value=False, n=height, dtype=pl.Boolean, eager=True)
    for rows in violations.values():
        result |= rows
    return result
