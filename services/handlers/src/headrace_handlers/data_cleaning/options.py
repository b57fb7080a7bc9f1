"""The settings, options and results of cleaning jobs, without polars."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace_worker import InvalidPayload

Action = Literal["drop", "null", "report"]
ColumnType = Literal["string", "integer", "number", "boolean", "date", "datetime"]
Bound = int | float | str
PathName = Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"^[^\x00]*$")]

_ORDERED = ("integer", "number", "date", "datetime")


class FilesSettings(BaseSettings):
    """The folder of the files, and the limits of one job.

    Args:
        root: the folder; by default `headrace-files` in the worker's working directory.
        max_bytes: the largest table, decompressed.
        max_memory: the most memory of the process that cleans the table, in bytes.
    """

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_FILES_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    root: Path = Path("headrace-files")
    max_bytes: int = Field(1024**3, ge=1)
    # polars needs more than this to start.
    max_memory: int = Field(4 * 1024**3, ge=256 * 1024**2)


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """What must hold for the values of a column. Missing values break `required` alone."""

    type: Annotated[
        ColumnType | None,
        Meta(
            description="What the values are. Left out, they stay as they are in the file: text, "
            "in a CSV file."
        ),
    ] = None
    format: Annotated[
        str | None,
        Meta(
            description="How a date or datetime is written, in the manner of strftime. By "
            "default ISO 8601; a time with a zone is brought to UTC.",
            examples=["%d.%m.%Y"],
        ),
    ] = None
    required: Annotated[bool, Meta(description="A value must not be missing.")] = False
    min: Annotated[
        Bound | None, Meta(description="The least value; dates as ISO 8601 text. Needs a type.")
    ] = None
    max: Annotated[
        Bound | None, Meta(description="The greatest value; dates as ISO 8601 text. Needs a type.")
    ] = None
    allowed: Annotated[
        Annotated[list[str | int | float | bool], Meta(min_length=1, max_length=10_000)] | None,
        Meta(description="The values that may occur."),
    ] = None
    pattern: Annotated[
        Annotated[str, Meta(max_length=1000)] | None,
        Meta(description="A regular expression for the whole text of a value."),
    ] = None
    unique: Annotated[
        bool, Meta(description="A value occurs once; each later occurrence is a violation.")
    ] = False
    on_violation: Annotated[
        Action | None, Meta(description="By default the job's on_violation.")
    ] = None

    def __post_init__(self) -> None:
        if self.format is not None and self.type not in ("date", "datetime"):
            raise InvalidPayload("format belongs to the types date and datetime")
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is None:
                continue
            if self.type not in _ORDERED:
                raise InvalidPayload(f"{name} needs one of the types {', '.join(_ORDERED)}")
            _check_value(name, bound, self.type)
        for value in self.allowed or ():
            _check_value("allowed", value, self.type or "string")


class Normalise(Struct, frozen=True, forbid_unknown_fields=True):
    """How the text in all columns is made alike."""

    trim: Annotated[bool, Meta(description="Takes white space away at both ends.")] = True
    collapse_whitespace: Annotated[
        bool, Meta(description="Makes each run of white space one space.")
    ] = True
    column_names: Annotated[
        Literal["keep", "snake_case"],
        Meta(description="snake_case: `Body Mass (g)` becomes `body_mass_g`."),
    ] = "keep"
    case: Annotated[
        dict[str, Literal["lower", "upper", "title"]],
        Meta(description="The letters of a column's text, by the column's name in the output."),
    ] = field(default_factory=dict)


class Cleaning(Struct, frozen=True, forbid_unknown_fields=True):
    """A file and what to do with it. Columns are named as they are in the output."""

    input: Annotated[
        PathName,
        Meta(
            description="The file, below HEADRACE_FILES_ROOT where the worker runs.",
            examples=["penguins.csv"],
        ),
    ]
    output: Annotated[
        PathName | None,
        Meta(
            description="The cleaned file; its suffix decides its format. By default beside the "
            "input: penguins.csv becomes penguins.clean.csv. The report lies beside it: "
            "penguins.clean.report.json."
        ),
    ] = None
    format: Annotated[
        Literal["csv", "parquet"] | None,
        Meta(description="Of the input, when its suffix does not say."),
    ] = None
    separator: Annotated[
        str, Meta(description="Of CSV files.", pattern=r"^[\x09\x20-\x7e]$", max_length=1)
    ] = ","
    null_values: Annotated[
        list[str],
        Meta(
            description="Texts that mean that a value is missing, as they are after trimming.",
            max_length=1000,
            examples=[["", "NA", "n/a"]],
        ),
    ] = field(default_factory=lambda: [""])
    normalise: Annotated[Normalise, Meta(description="How text is made alike.")] = field(
        default_factory=Normalise
    )
    deduplicate: Annotated[
        bool | Annotated[list[str], Meta(min_length=1)],
        Meta(
            description="Keeps the first of the rows that are alike in all columns, or in those "
            "named."
        ),
    ] = True
    rules: Annotated[
        dict[str, Rule], Meta(description="What must hold for the values, by column.")
    ] = field(default_factory=dict)
    on_violation: Annotated[
        Action,
        Meta(
            description="What becomes of a value that breaks a rule: its row is dropped, it is "
            "made missing, or it is only reported and stays (a column with values of another type "
            "then stays text)."
        ),
    ] = "report"

    def action(self, column: str) -> Action:
        """What becomes of a value of `column` that breaks a rule."""
        return self.rules[column].on_violation or self.on_violation


class Cleaned(Struct, frozen=True):
    """What was done. Paths are below HEADRACE_FILES_ROOT."""

    rows_in: int
    rows_out: int
    duplicates_removed: int
    rows_dropped: Annotated[int, Meta(description="Rows dropped for a violation.")]
    values_nulled: Annotated[int, Meta(description="Values made missing for a violation.")]
    violations: Annotated[int, Meta(description="Violations of all rules, in rows without twins.")]
    output: Annotated[str, Meta(description="The cleaned file.")]
    report: Annotated[str, Meta(description="The quality report, JSON.")]


def _check_value(name: str, value: Bound | bool, kind: ColumnType) -> None:
    """Raises ValueError when a rule's value could not be one of its column's."""
    try:
        match kind:
            case "string":
                fits = isinstance(value, str)
            case "integer":
                fits = isinstance(value, int) and not isinstance(value, bool)
                fits = fits and -(2**63) <= int(value) < 2**63
            case "number":
                fits = isinstance(value, int | float) and not isinstance(value, bool)
            case "boolean":
                fits = isinstance(value, bool)
            case "date":
                fits = isinstance(value, str) and date.fromisoformat(value) is not None
            case "datetime":
                fits = isinstance(value, str) and datetime.fromisoformat(value) is not None
    except ValueError:
        fits = False
    if not fits:
        raise InvalidPayload(f"{name} holds a value that is no {kind}")
