"""Convert values to declared types. Values that cannot be converted become missing values."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl

from headrace_handlers.data_cleaning.options import ColumnType

_TRUE_TEXTS = ("true", "t", "yes", "y", "1")
_FALSE_TEXTS = ("false", "f", "no", "n", "0")

# ISO 8601 with a `T` or a space, with and without a zone.
_NAIVE_FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M",
)
_ZONED_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")


def converted(column: pl.Series, kind: ColumnType | None, format_: str | None) -> pl.Series:
    """Return the column with its values converted to `kind`; if None, with unchanged values.

    Raises:
        polars.exceptions.PolarsError: the type of the column has no conversion (for example,
            lists), or the format is malformed.
    """
    match kind:
        case None:
            return column
        case "string":
            return column.cast(pl.String)
        case "integer":
            return _integers(column)
        case "number":
            numbers = column.cast(pl.Float64, strict=False)
            return numbers.set(~numbers.is_finite(), None)
        case "boolean":
            return _booleans(column)
        case "date":
            return _dates(column, format_)
        case "datetime":
            return _datetimes(column, format_)


def check_format(format_: str, kind: ColumnType) -> None:
    """Check that a format can read the dates that it writes.

    polars reads `dd.mm.yyyy` as a constant and `%d.%m` as a date in year 1.

    Raises:
        ValueError: the format cannot read its dates; the message contains the reason.
    """
    if "%f" in format_.replace("%%", ""):
        # polars would read the digits of %f as nanoseconds, regardless of their number.
        raise ValueError("use %.f, %3f, %6f or %9f for fractions of a second, not %f")
    probe = pl.Series("probe", [datetime(2001, 2, 3, 4, 5, 6)])  # noqa: DTZ001 - any zone
    if any(zone in format_ for zone in ("%z", "%:z", "%#z", "%+")):
        probe = probe.dt.replace_time_zone("UTC")
    try:
        # polars cannot write a zone with `%#z`.
        text = probe.dt.strftime(format_.replace("%#z", "%z"))
        read = converted(text, kind, format_)[0]
    except pl.exceptions.PolarsError as error:
        raise ValueError(str(error).strip().partition("\n")[0]) from error
    if read is None or (read.year, read.month, read.day) != (2001, 2, 3):
        raise ValueError(
            "it does not contain a year, a month and a day; use a format such as %d.%m.%Y"
        )


def literal(value: object, kind: ColumnType | None) -> object:
    """Return the value of a rule, converted to the type of its column. Dates are passed as text."""
    if kind == "date" and isinstance(value, str):
        return date.fromisoformat(value)
    if kind == "datetime" and isinstance(value, str):
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    return value


def _integers(column: pl.Series) -> pl.Series:
    if column.dtype.is_float():
        # A cast would truncate fractions.
        column = column.set(~(column.is_finite() & (column == column.floor())), None)
    return column.cast(pl.Int64, strict=False)


def _booleans(column: pl.Series) -> pl.Series:
    if column.dtype == pl.Boolean:
        return column
    words = column.cast(pl.String).str.to_lowercase()
    return words.replace_strict(
        {**dict.fromkeys(_TRUE_TEXTS, True), **dict.fromkeys(_FALSE_TEXTS, False)},
        default=None,
        return_dtype=pl.Boolean,
    )


def _dates(column: pl.Series, format_: str | None) -> pl.Series:
    if column.dtype == pl.String:
        return column.str.to_date(format_ or "%Y-%m-%d", strict=False)
    return column.cast(pl.Date, strict=False)


def _datetimes(column: pl.Series, format_: str | None) -> pl.Series:
    if column.dtype != pl.String:
        return column.cast(pl.Datetime("us"), strict=False)
    readings = [
        _utc(pl.col(column.name).str.to_datetime(each, time_unit="us", strict=False))
        for each in ((format_,) if format_ else (*_NAIVE_FORMATS, *_ZONED_FORMATS))
    ]
    return column.to_frame().select(pl.coalesce(readings)).to_series()


def _utc(times: pl.Expr) -> pl.Expr:
    # Only values with a zone are aware, and polars converts these to UTC.
    return times.dt.replace_time_zone(None)
