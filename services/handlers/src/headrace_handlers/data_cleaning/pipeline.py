"""The steps of a cleaning job."""

from __future__ import annotations

from pathlib import Path

import msgspec
import polars as pl

from headrace_handlers.data_cleaning.files import (
    Files,
    Format,
    check_target,
    format_of,
    write_atomically,
)
from headrace_handlers.data_cleaning.normalise import normalised
from headrace_handlers.data_cleaning.options import Cleaned, Cleaning, FilesSettings
from headrace_handlers.data_cleaning.report import QualityReport, column_reports
from headrace_handlers.data_cleaning.rules import check, check_formats
from headrace_worker import Fail, SyncContext


def clean(options: Cleaning, ctx: SyncContext) -> Cleaned:
    """Read, clean and write a table; report progress, and stop between two steps if cancelled.

    Raises:
        Fail: the file cannot be read, a path is not allowed, or the options do not match the file.
        OSError: the file system has a temporary error.
        Stopped: the job was cancelled.
    """
    settings = FilesSettings()
    files = Files(root=settings.root, max_bytes=settings.max_bytes)
    source = files.path(options.input)
    source_format = options.format or format_of(source)
    if source_format is None:
        raise Fail(
            f"{options.input!r} does not end in .csv, .tsv, .txt, .parquet or .pq; set `format`",
            type="InvalidOptions",
        )
    check_formats(options)
    target, report_path = _targets(options, files, source, source_format)
    target_format = format_of(target) or source_format

    _report_step(ctx, 0.0, "reading and normalizing")
    with files.read(source, source_format, separator=options.separator) as raw:
        lazy = normalised(raw, options.normalise, options.null_values)
        _check_columns(options, lazy.collect_schema().names())
        # The streaming engine normalizes while it reads, so the raw table is never in memory.
        table = lazy.collect(engine="streaming")
    rows_in = table.height

    _report_step(ctx, 0.45, "removing duplicates", rows=rows_in)
    number = _free_name(table)
    table = _deduplicated(table.with_row_index(number, offset=1), options, number)
    numbers = table[number]
    table = table.drop(number)
    duplicates = rows_in - table.height

    _report_step(ctx, 0.6, "checking the rules", rows=table.height)
    checked = check(table, options)

    _report_step(ctx, 0.8, "writing", rows=checked.table.height)
    tag = f"{ctx.attempt.job_id}.{ctx.attempt.number}"
    write_atomically(
        target,
        files.name(target),
        tag,
        lambda file: (
            checked.table.write_parquet(file)
            if target_format == "parquet"
            else checked.table.write_csv(file, separator=options.separator)
        ),
    )
    report = QualityReport(
        input=files.name(source),
        output=files.name(target),
        rows_in=rows_in,
        rows_out=checked.table.height,
        duplicates_removed=duplicates,
        rows_dropped=checked.dropped,
        values_nulled=checked.nulled,
        columns=column_reports(checked, numbers),
    )
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    write_atomically(
        report_path, files.name(report_path), tag, lambda file: file.write(text + b"\n")
    )
    ctx.progress(1.0, "done", rows=checked.table.height)
    return Cleaned(
        rows_in=rows_in,
        rows_out=report.rows_out,
        duplicates_removed=duplicates,
        rows_dropped=checked.dropped,
        values_nulled=checked.nulled,
        violations=sum(v.count for c in report.columns for v in c.violations.values()),
        output=report.output,
        report=files.name(report_path),
    )


def _report_step(ctx: SyncContext, fraction: float, name: str, **counters: int) -> None:
    ctx.raise_if_cancelled()
    ctx.progress(fraction, name, **counters)


def _targets(
    options: Cleaning, files: Files, source: Path, source_format: Format
) -> tuple[Path, Path]:
    """Return the paths of the cleaned file and its report."""
    if options.output is None:
        suffix = source.suffix or f".{source_format}"
        target = files.path(files.name(source.with_name(f"{source.stem}.clean{suffix}")))
    else:
        target = files.path(options.output)
    _check_target(files, target, source)
    report = files.path(files.name(target.with_name(f"{target.stem}.report.json")))
    _check_target(files, report, source)
    return target, report


def _check_target(files: Files, path: Path, source: Path) -> None:
    """Raise Fail if `path` cannot be written or is the input."""
    name = files.name(path)
    if path == source:
        raise Fail(f"{name!r} cannot be overwritten: it is the input", type="PathNotAllowed")
    check_target(path, name)


def _check_columns(options: Cleaning, columns: list[str]) -> None:
    """Raise Fail if the options name columns that the table does not have."""
    unique = options.deduplicate if isinstance(options.deduplicate, list) else []
    named = [*options.rules, *options.normalise.case, *unique]
    missing = [name for name in dict.fromkeys(named) if name not in columns]
    if missing:
        raise Fail(
            f"the file has no column {', '.join(map(repr, missing[:10]))}; it has "
            f"{', '.join(map(repr, columns[:50]))}",
            type="InvalidOptions",
        )


def _free_name(table: pl.DataFrame) -> str:
    name = "row"
    while name in table.columns:
        name += "_"
    return name


def _deduplicated(table: pl.DataFrame, options: Cleaning, number: str) -> pl.DataFrame:
    match options.deduplicate:
        case True:
            columns = [name for name in table.columns if name != number]
        case False:
            return table
        case list() as columns:
            pass
    if not columns:
        return table
    return table.unique(columns, keep="first", maintain_order=True)
