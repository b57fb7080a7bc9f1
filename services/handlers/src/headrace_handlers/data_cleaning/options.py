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

_ORDERED_TYPES = ("integer", "number", "date", "datetime")


class FilesSettings(BaseSettings):
    """The folder of the files, and the limits of one job.

    Args:
        root: the folder; by default `headrace-files` in the worker's working directory.
        max_bytes: the maximum size of a decompressed table.
        max_memory: the memory limit of the process that cleans the table, in bytes.
    """

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_FILES_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    root: Path = Path("headrace-files")
    max_bytes: int = Field(1024**3, ge=1)
    # polars needs more than this to start.
    max_memory: int = Field(4 * 1024**3, ge=256 * 1024**2)


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """The rules for the values of a column. Missing values violate only `required`."""

    type: Annotated[
        ColumnType | None,
        Meta(
            description="The type of the values. Default: the type in the file, which is text in "
            "CSV files."
        ),
    ] = None
    format: Annotated[
        str | None,
        Meta(
            description="strftime format of a date or datetime. Default: ISO 8601. Times "
            "with a zone are converted to UTC.",
            examples=["%d.%m.%Y"],
        ),
    ] = None
    required: Annotated[bool, Meta(description="Values must not be missing.")] = False
    min: Annotated[
        Bound | None, Meta(description="Minimum value; dates as ISO 8601 text. Requires a type.")
    ] = None
    max: Annotated[
        Bound | None, Meta(description="Maximum value; dates as ISO 8601 text. Requires a type.")
    ] = None
    allowed: Annotated[
        Annotated[list[str | int | float | bool], Meta(min_length=1, max_length=10_000)] | None,
        Meta(description="Allowed values."),
    ] = None
    pattern: Annotated[
        Annotated[str, Meta(max_length=1000)] | None,
        Meta(description="Regular expression that matches the whole value."),
    ] = None
    unique: Annotated[
        bool, Meta(description="Values are unique; each repetition is a violation.")
    ] = False
    on_violation: Annotated[
        Action | None, Meta(description="Default: on_violation of the job.")
    ] = None

    def __post_init__(self) -> None:
        if self.format is not None and self.type not in ("date", "datetime"):
            raise InvalidPayload("format requires the type date or datetime")
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is None:
                continue
            if self.type not in _ORDERED_TYPES:
                raise InvalidPayload(
                    f"{name} requires one of the types {', '.join(_ORDERED_TYPES)}"
                )
            _check_value(name, bound, self.type)
        for value in self.allowed or ():
            _check_value("allowed", value, self.type or "string")


class Normalise(Struct, frozen=True, forbid_unknown_fields=True):
    """How to normalize text in all columns."""

    trim: Annotated[bool, Meta(description="Remove white space at both ends.")] = True
    collapse_whitespace: Annotated[
        bool, Meta(description="Replace runs of white space by one space.")
    ] = True
    column_names: Annotated[
        Literal["keep", "snake_case"],
        Meta(description="snake_case: `Body Mass (g)` becomes `body_mass_g`."),
    ] = "keep"
    case: Annotated[
        dict[str, Literal["lower", "upper", "title"]],
        Meta(description="Letter case of the text, by column name of the output."),
    ] = field(default_factory=dict)


class Cleaning(Struct, frozen=True, forbid_unknown_fields=True):
    """A file and the cleaning steps. Column names refer to the output."""

    input: Annotated[
        PathName,
        Meta(
            description="The file, relative to HEADRACE_FILES_ROOT of the worker.",
            examples=["penguins.csv"],
        ),
    ]
    output: Annotated[
        PathName | None,
        Meta(
            description="The cleaned file; its suffix is its format. Default: beside the input, "
            "penguins.csv becomes penguins.clean.csv. The report is beside it: "
            "penguins.clean.report.json."
        ),
    ] = None
    format: Annotated[
        Literal["csv", "parquet"] | None,
        Meta(description="Format of the input; default: by its suffix."),
    ] = None
    separator: Annotated[
        str, Meta(description="Separator of CSV files.", pattern=r"^[\x09\x20-\x7e]$", max_length=1)
    ] = ","
    null_values: Annotated[
        list[str],
        Meta(
            description="Texts that represent a missing value, after trimming.",
            max_length=1000,
            examples=[["", "NA", "n/a"]],
        ),
    ] = field(default_factory=lambda: [""])
    normalise: Annotated[Normalise, Meta(description="Normalization of text.")] = field(
        default_factory=Normalise
    )
    deduplicate: Annotated[
        bool | Annotated[list[str], Meta(min_length=1)],
        Meta(
            description="Keep the first of the rows that are equal in all columns, or in the given "
            "ones."
        ),
    ] = True
    rules: Annotated[dict[str, Rule], Meta(description="Rules by column.")] = field(
        default_factory=dict
    )
    on_violation: Annotated[
        Action,
        Meta(
            description="Action for a value that violates a rule: drop its row, make it missing, "
            "or only report it (then a column with values of another type stays text)."
        ),
    ] = "report"

    def action(self, column: str) -> Action:
        """Return the action for a value of `column` that violates a rule."""
        return self.rules[column].on_violation or self.on_violation


class Cleaned(Struct, frozen=True):
    """The result. Paths are relative to HEADRACE_FILES_ROOT."""

    rows_in: int
    rows_out: int
    duplicates_removed: int
    rows_dropped: Annotated[int, Meta(description="Rows dropped because of a violation.")]
    values_nulled: Annotated[int, Meta(description="Values made missing because of a violation.")]
    violations: Annotated[int, Meta(description="Violations of all rules, after deduplication.")]
    output: Annotated[str, Meta(description="The cleaned file.")]
    report: Annotated[str, Meta(description="The quality report, JSON.")]


def _check_value(name: str, value: Bound | bool, kind: ColumnType) -> None:
    """Raise InvalidPayload if a rule's value does not have the type of the rule's column."""
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
        raise InvalidPayload(f"{name} contains a value that is not of the type {kind}")
