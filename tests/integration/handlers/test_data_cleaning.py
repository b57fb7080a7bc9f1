"""Cleaning of real files, and reports without values from these files."""

from __future__ import annotations

import gzip
import json
import os
import random
import socket
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
import palmerpenguins
import polars as pl
import pytest

from headrace_core.runtime.settings import Settings
from headrace_handlers.data_cleaning import Cleaned, Cleaning, data_cleaning
from headrace_handlers.data_cleaning.csv_file import MAX_COLUMNS
from headrace_handlers.data_cleaning.files import Files
from headrace_worker import Fail, Stopped
from headrace_worker.api.loading import load_handlers
from headrace_worker.runners.process_pool import ProcessPool
from support.recording import Recording, attempt, sync_context

PENGUINS = Path(palmerpenguins.__file__).parent / "data" / "penguins-raw.csv"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setenv("HEADRACE_FILES_ROOT", str(folder))
    return folder


def clean(recording: Recording | None = None, **options: Any) -> Cleaned:
    """Run the handler with a payload that was decoded from JSON."""
    payload = msgspec.json.decode(json.dumps(options), type=Cleaning)
    return data_cleaning(payload, sync_context(recording))


def clean_text(root: Path, text: str, **options: Any) -> tuple[Cleaned, str, dict[str, Any]]:
    """Clean a CSV text; return the result, the cleaned text and the report."""
    (root / "in.csv").write_text(text)
    result = clean(input="in.csv", **options)
    return (
        result,
        (root / result.output).read_text(),
        json.loads((root / result.report).read_text()),
    )


def violations_of(report: dict[str, Any], column: str) -> dict[str, tuple[int, list[int]]]:
    (column_report,) = [each for each in report["columns"] if each["name"] == column]
    return {rule: (v["count"], v["rows"]) for rule, v in column_report["violations"].items()}


def test_example_data_set_is_cleaned(root: Path) -> None:
    (root / "penguins-raw.csv").write_bytes(PENGUINS.read_bytes())
    recording = Recording()
    result = clean(
        recording,
        input="penguins-raw.csv",
        null_values=["", "NA"],
        normalise={"column_names": "snake_case", "case": {"sex": "lower"}},
        rules={
            "sample_number": {"type": "integer", "required": True, "min": 1},
            "date_egg": {"type": "date", "required": True, "min": "2007-01-01"},
            "culmen_length_mm": {"type": "number", "min": 30, "max": 60},
            "body_mass_g": {"type": "integer", "required": True, "on_violation": "drop"},
            "sex": {"allowed": ["male", "female"]},
            "individual_id": {"pattern": r"N\d+A\d"},
        },
    )
    assert result == Cleaned(
        rows_in=344,
        rows_out=342,
        duplicates_removed=0,
        rows_dropped=2,
        values_nulled=0,
        violations=2,
        output="penguins-raw.clean.csv",
        report="penguins-raw.clean.report.json",
    )
    table = pl.read_csv(root / result.output, infer_schema_length=None)
    assert table.shape == (342, 17)
    assert table.columns[:4] == ["study_name", "sample_number", "species", "region"]
    assert "delta_15_n_o_oo" in table.columns
    assert table["body_mass_g"].sum() == 1437000
    assert sorted(table["sex"].drop_nulls().unique()) == ["female", "male"]
    assert table["sex"].null_count() == 9
    report = json.loads((root / result.report).read_text())
    assert violations_of(report, "body_mass_g") == {"required": (2, [4, 272])}
    assert violations_of(report, "sex") == {}
    assert recording.fractions == sorted(recording.fractions)
    assert recording.fractions[-1] == 1.0
    assert [progress.message for progress in recording.progress_reports] == [
        "reading and normalizing",
        "removing duplicates",
        "checking the rules",
        "writing",
        "done",
    ]


def test_repeated_cleaning_writes_the_same_output(root: Path) -> None:
    (root / "penguins-raw.csv").write_bytes(PENGUINS.read_bytes())
    options: dict[str, Any] = {
        "input": "penguins-raw.csv",
        "deduplicate": ["Individual ID"],
        "rules": {"Culmen Depth (mm)": {"type": "number", "on_violation": "null"}},
    }
    for output in ("out.csv", "out.parquet"):
        clean(**options, output=output)
        first = {path.name: path.read_bytes() for path in root.iterdir()}
        clean(**options, output=output)
        assert {path.name: path.read_bytes() for path in root.iterdir()} == first


def test_text_is_normalized_before_other_steps(root: Path) -> None:
    text = "name,city\n ada   lovelace ,London\nada lovelace,  London \nbob,n/a\nbob, n/a\n"
    result, cleaned, report = clean_text(root, text, null_values=["n/a"])
    assert cleaned == "name,city\nada lovelace,London\nbob,\n"
    assert (result.rows_in, result.rows_out, result.duplicates_removed) == (4, 2, 2)
    assert [(c["name"], c["nulls"], c["distinct"]) for c in report["columns"]] == [
        ("name", 0, 2),
        ("city", 1, 1),
    ]


def test_file_is_unchanged_without_options(root: Path) -> None:
    text = 'id,note\n007," a  b "\n007," a  b "\n1e3,NA\n'
    result, cleaned, _ = clean_text(
        root,
        text,
        deduplicate=False,
        normalise={"trim": False, "collapse_whitespace": False},
        null_values=[],
    )
    assert cleaned == "id,note\n007, a  b \n007, a  b \n1e3,NA\n"
    assert result.rows_out == 3


def test_first_row_of_duplicates_is_kept(root: Path) -> None:
    _, cleaned, _ = clean_text(root, "id,note\n1,a\n2,b\n1,c\n", deduplicate=["id"])
    assert cleaned == "id,note\n1,a\n2,b\n"


def test_snake_case_column_names_are_unique(root: Path) -> None:
    text = "Body Mass (g),bodyMass,body-mass,ÖPNV Linie,???\n1,2,3,4,5\n"
    _, cleaned, _ = clean_text(root, text, normalise={"column_names": "snake_case"})
    assert cleaned.splitlines()[0] == "body_mass_g,body_mass,body_mass_2,öpnv_linie,column"


def test_letter_case_is_changed_by_column(root: Path) -> None:
    case = {"a": "upper", "b": "lower", "c": "title"}
    _, cleaned, _ = clean_text(root, "a,b,c,d\nxY,xY,ab cd,xY\n", normalise={"case": case})
    assert cleaned == "a,b,c,d\nXY,xy,Ab Cd,xY\n"


RULES = {
    "id": {"type": "integer", "required": True, "unique": True},
    "price": {"type": "number", "min": 0, "max": 100},
    "day": {"type": "date", "max": "2026-12-31"},
    "kind": {"allowed": ["a", "b"]},
    "code": {"pattern": "[A-Z]{2}"},
}
ORDERS = (
    "id,price,day,kind,code\n"
    "1,10,2026-01-01,a,AB\n"  # 1: valid
    "2,-1,2026-01-01,b,CD\n"  # 2: price is below min
    "x,10,2026-01-01,a,EF\n"  # 3: id is not an integer
    ",10,2026-01-01,a,GH\n"  # 4: id is missing
    "1,11,2026-01-01,a,IJ\n"  # 5: id is repeated
    "6,nan,2026-13-01,a,KL\n"  # 6: price and day are invalid
    "7,101,2027-01-01,c,MNO\n"  # 7: price, day, kind and code break their rules
    "8,,,,\n"  # 8: only optional values are missing
)
VIOLATIONS = {
    "id": {"type": (1, [3]), "required": (1, [4]), "unique": (1, [5])},
    "price": {"type": (1, [6]), "min": (1, [2]), "max": (1, [7])},
    "day": {"type": (1, [6]), "max": (1, [7])},
    "kind": {"allowed": (1, [7])},
    "code": {"pattern": (1, [7])},
}


def test_violations_are_reported_by_rule_and_row(root: Path) -> None:
    result, cleaned, report = clean_text(root, ORDERS, rules=RULES)
    assert {column: violations_of(report, column) for column in RULES} == VIOLATIONS
    assert (result.violations, result.rows_dropped, result.values_nulled) == (10, 0, 0)
    assert cleaned == ORDERS


def test_rows_with_violations_are_dropped(root: Path) -> None:
    result, cleaned, report = clean_text(root, ORDERS, rules=RULES, on_violation="drop")
    assert {column: violations_of(report, column) for column in RULES} == VIOLATIONS
    assert cleaned == "id,price,day,kind,code\n1,10.0,2026-01-01,a,AB\n8,,,,\n"
    assert (result.rows_out, result.rows_dropped) == (2, 6)


def test_invalid_values_become_null(root: Path) -> None:
    result, cleaned, report = clean_text(root, ORDERS, rules=RULES, on_violation="null")
    assert {column: violations_of(report, column) for column in RULES} == VIOLATIONS
    assert cleaned == (
        "id,price,day,kind,code\n"
        "1,10.0,2026-01-01,a,AB\n"
        "2,,2026-01-01,b,CD\n"
        ",10.0,2026-01-01,a,EF\n"
        ",10.0,2026-01-01,a,GH\n"
        ",11.0,2026-01-01,a,IJ\n"
        "6,,,a,KL\n"
        "7,,,,\n"
        "8,,,,\n"
    )
    assert result.values_nulled == 9


def test_column_rule_overrides_the_action(root: Path) -> None:
    rules = {
        "id": {"type": "integer", "on_violation": "drop"},
        "price": {"type": "number", "on_violation": "null"},
        "day": {"type": "date"},
    }
    _, cleaned, _ = clean_text(root, "id,price,day\nx,1,\n2,y,z\n3,3,2026-01-01\n", rules=rules)
    assert cleaned == "id,price,day\n2,,z\n3,3.0,2026-01-01\n"


def test_dropped_row_does_not_count_as_a_duplicate(root: Path) -> None:
    rules = {"id": {"unique": True}, "price": {"type": "number"}}
    text = "id,price\n1,x\n1,5\n1,6\n"
    result, cleaned, report = clean_text(root, text, rules=rules, on_violation="drop")
    assert cleaned == "id,price\n1,5.0\n"
    assert result.rows_dropped == 2
    assert violations_of(report, "id") == {"unique": (1, [3])}


def test_reported_row_numbers_are_those_of_the_input(root: Path) -> None:
    text = "id\n1\n1\n1\nx\n" + "".join(f"y{n}\n" for n in range(10))
    _, _, report = clean_text(root, text, rules={"id": {"type": "integer"}})
    assert violations_of(report, "id") == {"type": (11, [4, 5, 6, 7, 8])}


def test_report_contains_no_values(root: Path) -> None:
    (root / "in.csv").write_text("id,card\nx,4111-1111\ny,4222-2222\n")
    rules = {"id": {"type": "integer"}, "card": {"pattern": "[0-9]+", "unique": True}}
    result = clean(input="in.csv", rules=rules)
    text = (root / result.report).read_text()
    assert "4111" not in text
    assert '"x"' not in text


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        ({"type": "integer"}, ["1", "-2", "3.0", "9223372036854775808"], [1, -2, None, None]),
        ({"type": "number"}, ["1", "2.5", "1e3", "inf", "1,5"], [1.0, 2.5, 1000.0, None, None]),
        (
            {"type": "boolean"},
            ["true", "No", "1", "f", "maybe"],
            [True, False, True, False, None],
        ),
        (
            {"type": "date"},
            ["2026-02-28", "2026-02-29", "28.02.2026"],
            [date(2026, 2, 28), None, None],
        ),
        (
            {"type": "date", "format": "%d.%m.%Y"},
            ["28.02.2026", "2026-02-28"],
            [date(2026, 2, 28), None],
        ),
        (
            {"type": "datetime"},
            [
                "2026-02-28T10:00:00",
                "2026-02-28 10:00:00.5",
                "2026-02-28T10:00:00Z",
                "2026-02-28T10:00:00+02:00",
                "2026-02-28 10:00",
                "soon",
            ],
            [
                datetime.fromisoformat("2026-02-28T10:00:00"),
                datetime.fromisoformat("2026-02-28T10:00:00.500000"),
                datetime.fromisoformat("2026-02-28T10:00:00"),
                datetime.fromisoformat("2026-02-28T08:00:00"),
                datetime.fromisoformat("2026-02-28T10:00:00"),
                None,
            ],
        ),
        (
            {"type": "datetime", "format": "%d.%m.%Y %H:%M %z"},
            ["28.02.2026 10:00 +0100", "x"],
            [datetime.fromisoformat("2026-02-28T09:00:00"), None],
        ),
        ({"type": "integer", "allowed": [1, 3]}, ["1", "2"], [1, None]),
        ({"type": "number", "allowed": [1, 2.5]}, ["1.0", "2.5", "3"], [1.0, 2.5, None]),
        ({"type": "boolean", "allowed": [True]}, ["yes", "no"], [True, None]),
        ({"type": "date", "allowed": ["2026-01-01"]}, ["2026-01-01"], [date(2026, 1, 1)]),
        (
            {"type": "datetime", "min": "2026-01-01T00:00:00+01:00"},
            ["2025-12-31T23:00:00", "2025-12-31T22:59:59"],
            [datetime.fromisoformat("2025-12-31T23:00:00"), None],
        ),
        ({"pattern": "a|bc"}, ["a", "bc", "abc", "a\nb"], ["a", "bc", None, None]),
    ],
)
def test_values_are_converted_to_their_type(
    root: Path, rule: dict[str, Any], values: list[str], expected: list[Any]
) -> None:
    pl.DataFrame({"x": values}).write_csv(root / "in.csv")
    result = clean(
        input="in.csv",
        output="out.parquet",
        deduplicate=False,
        normalise={"collapse_whitespace": False},
        rules={"x": {**rule, "on_violation": "null"}},
    )
    assert pl.read_parquet(root / result.output)["x"].to_list() == expected


def test_parquet_file_keeps_its_types(root: Path) -> None:
    table = pl.DataFrame(
        {
            "id": [1, 2, 2],
            "share": [1.0, float("nan"), float("nan")],
            "whole": [1.0, 2.5, 2.5],
            "day": [date(2026, 1, 1), None, None],
            "tags": [["a"], ["b"], ["b"]],
        }
    )
    table.write_parquet(root / "in.parquet")
    rules = {"share": {"type": "number"}, "whole": {"type": "integer"}, "id": {"type": "string"}}
    result = clean(input="in.parquet", rules=rules, on_violation="null")
    assert (result.output, result.duplicates_removed) == ("in.clean.parquet", 1)
    cleaned = pl.read_parquet(root / result.output)
    assert cleaned.to_dict(as_series=False) == {
        "id": ["1", "2"],
        "share": [1.0, None],
        "whole": [1, None],
        "day": [date(2026, 1, 1), None],
        "tags": [["a"], ["b"]],
    }


def test_tsv_with_a_byte_order_mark_is_cleaned(root: Path) -> None:
    (root / "in.tsv").write_bytes("\ufeffid\tname\r\n1\tÄda\r\n".encode())
    result = clean(input="in.tsv", separator="\t", rules={"id": {"type": "integer"}})
    assert (root / result.output).read_text() == "id\tname\n1\tÄda\n"


def test_file_with_only_a_header_is_an_empty_table(root: Path) -> None:
    result, cleaned, _ = clean_text(
        root, "id,name\n", rules={"id": {"type": "integer", "unique": True}}
    )
    assert (result.rows_in, result.rows_out, cleaned) == (0, 0, "id,name\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.csv", None),
        ("empty.csv", b""),
        ("picture.csv", b"\x89PNG\r\n\x1a\n\x00\xff\xfe,\x80\n\xff\n"),
        ("latin.csv", "name\nJürg\n".encode("latin-1")),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n"),
        ("text.parquet", b"a,b\n1,2\n"),
        ("empty.parquet", b""),
        ("half.parquet", b"PAR1" + b"\x00" * 40 + b"PAR1"),
        ("half.csv.parquet", b"PAR1"),
    ],
)
def test_unreadable_file_fails_with_its_name(root: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (root / name).write_bytes(content)
    with pytest.raises(Fail, match=name.replace(".", r"\.")) as failure:
        clean(input=name)
    assert failure.value.type == "FileUnreadable"
    assert str(root) not in str(failure.value)
    assert [path.name for path in root.iterdir()] == ([name] if content is not None else [])


def test_damaged_parquet_file_is_read_or_rejected(root: Path) -> None:
    path = root / "in.parquet"
    numbers = list(range(1000))
    columns = {"a": numbers, "b": [str(n) for n in numbers], "c": [[n] for n in numbers]}
    pl.DataFrame(columns).write_parquet(path)
    intact = path.read_bytes()
    files = Files(root=root, max_bytes=10**6)
    for seed in range(200):
        draw = random.Random(seed)
        damaged = bytearray(intact)
        for _ in range(draw.choice([1, 3, 20])):
            # Most damage is near the end, which contains the column metadata.
            damaged[draw.choice([-draw.randrange(1, 900), draw.randrange(len(intact))])] ^= 0xA5
        path.write_bytes(damaged)
        with suppress(Fail), files.read(path, "parquet", separator=",") as table:
            table.collect(engine="streaming")


def special_files(root: Path) -> Iterator[str]:
    """Create a folder, a pipe and a socket; yield their names."""
    (root / "folder.csv").mkdir()
    yield "folder.csv"
    os.mkfifo(root / "pipe.csv")
    yield "pipe.csv"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket.csv"))
        yield "socket.csv"


def test_input_that_is_not_a_regular_file_fails(root: Path) -> None:
    for name in special_files(root):
        with pytest.raises(Fail, match=f"'{name}' cannot be read") as failure:
            clean(input=name)
        assert failure.value.type == "FileUnreadable"


def test_output_that_would_replace_a_special_file_fails(root: Path) -> None:
    (root / "in.csv").write_text("a\n1\n")
    for name in special_files(root):
        with pytest.raises(Fail, match=f"'{name}' cannot be overwritten") as failure:
            clean(input="in.csv", output=name)
        assert failure.value.type == "PathNotAllowed"


@pytest.mark.parametrize(
    "output",
    ["in.csv/out.csv", "pipe/out.csv", "x" * 300 + ".csv", "x" * 250, "a/" + "x" * 300, "loop/a"],
)
def test_output_with_an_invalid_path_fails(root: Path, output: str) -> None:
    (root / "in.csv").write_text("a\n1\n")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    with pytest.raises(Fail) as failure:
        clean(input="in.csv", output=output)
    assert failure.value.type == "PathNotAllowed"
    assert {path.name for path in root.iterdir()} - {"a"} == {"in.csv", "loop", "pipe"}


@pytest.mark.parametrize("name", ["x" * 300, "in.csv/a.csv"])
def test_input_with_an_invalid_path_fails(root: Path, name: str) -> None:
    (root / "in.csv").write_text("a\n1\n")
    with pytest.raises(Fail):
        clean(input=name, format="csv")


def test_output_with_the_longest_name_is_written(root: Path) -> None:
    (root / "in.csv").write_text("a\n1\n")
    name = "x" * 240 + ".csv"
    clean(input="in.csv", output=name)
    assert (root / name).read_text() == "a\n1\n"


def test_oversized_file_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_FILES_MAX_BYTES", "5")
    (root / "in.csv").write_text("a\n12345\n")
    with pytest.raises(Fail, match="HEADRACE_FILES_MAX_BYTES"):
        clean(input="in.csv")


def test_gzip_file_is_cleaned_like_its_content(root: Path) -> None:
    content = "a,b\n" + "".join(f"{n},ä\n" for n in range(300_000))
    # The file has two gzip members, as from `cat a.gz b.gz`.
    (root / "in.csv").write_bytes(
        gzip.compress(content[:9].encode()) + gzip.compress(content[9:].encode())
    )
    result = clean(input="in.csv")
    assert (root / result.output).read_text() == content
    assert {path.name for path in root.iterdir()} == {"in.csv", result.output, result.report}


def test_gzip_file_beyond_the_decompressed_limit_fails(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_FILES_MAX_BYTES", str(2**20))
    (root / "in.csv").write_bytes(gzip.compress(b"a\n" + b"1\n" * 2**20))
    with pytest.raises(Fail, match=r"limit is 1,048,576 .*HEADRACE_FILES_MAX_BYTES") as failure:
        clean(input="in.csv")
    assert failure.value.type == "FileTooLarge"
    assert [path.name for path in root.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a,b\r1,2\r3,4\r", "end with CR only"),
        (b"a\r1\r2\n3\n", "end with CR only"),
        (b'a,b\n"x\r",1\n2,3\r4,5\n', "end with CR only"),
        (b"a\n" + b"1" * (2**20 - 3) + b"\r2\n", "end with CR only"),
        (b"a\n1\r", "end with CR only"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        ("a,b\n1,2\n".encode("utf-16-le"), "NUL characters"),
        ("ä,b\n1,2\n".encode("latin-1"), "not UTF-8"),
        (b"a\n\xc3", "not UTF-8"),
        (zlib.compress(b"a\n1\n"), "compressed with zlib"),
        (b"\x28\xb5\x2f\xfd\x20\x04\x21\x00\x00a\n1\n", "compressed with zstd"),
        (gzip.compress(gzip.compress(b"a\n1\n")), "compressed with gzip twice"),
        (gzip.compress(zlib.compress(b"a\n1\n")), "compressed with zlib"),
        (gzip.compress(b"a\n1\n" * 100)[:-9], "gzip data is damaged"),
        (gzip.compress(b"a\n1\n") + b"more", "gzip data is damaged"),
        (gzip.compress(b""), "empty CSV"),
    ],
    # The compressed bytes differ between runs, so the ids of the tests must not contain them.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_csv_that_polars_misreads_fails(root: Path, content: bytes, reason: str) -> None:
    (root / "in.csv").write_bytes(content)
    with pytest.raises(Fail, match=reason) as failure:
        clean(input="in.csv")
    assert failure.value.type == "FileUnreadable"
    assert [path.name for path in root.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a,b\r\n1,2\r\n", [("1", "2")]),
        (b'a,b\n"x\ry",2\n', [("x\ry", "2")]),
        (b'a\n"' + b"1" * (2**20 - 4) + b'\r\n"\r\n', [("1" * (2**20 - 4) + "\r\n",)]),
    ],
)
def test_csv_with_valid_carriage_returns_is_read(
    root: Path, content: bytes, rows: list[tuple[str, ...]]
) -> None:
    (root / "in.csv").write_bytes(content)
    with Files(root=root, max_bytes=2**22).read(root / "in.csv", "csv", separator=",") as table:
        assert table.collect().rows() == rows


def test_table_with_too_many_columns_fails(root: Path) -> None:
    (root / "in.csv").write_bytes(b"," * MAX_COLUMNS + b"\n")
    pl.DataFrame({f"c{n}": [1] for n in range(MAX_COLUMNS + 1)}).write_parquet(root / "in.pq")
    for name in ("in.csv", "in.pq"):
        with pytest.raises(Fail, match="more columns than the limit of 10,000") as failure:
            clean(input=name)
        assert failure.value.type == "FileTooLarge"


@pytest.mark.parametrize("value", [1, "x", "x" * 100])
def test_parquet_beyond_the_decompressed_limit_fails(
    root: Path, monkeypatch: pytest.MonkeyPatch, value: int | str
) -> None:
    monkeypatch.setenv("HEADRACE_FILES_MAX_BYTES", str(2**20))
    path = root / "in.parquet"
    pl.select(a=pl.repeat(value, 200_000)).write_parquet(path)
    assert path.stat().st_size < 2**20 // 10
    with pytest.raises(Fail, match="200,000 rows, about") as failure:
        clean(input="in.parquet")
    assert failure.value.type == "FileTooLarge"


async def test_table_that_needs_too_much_memory_fails(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_FILES_MAX_MEMORY", str(256 * 2**20))
    (root / "in.csv").write_bytes(b"a,b,c,d\n" + b"1,2,3,4\n" * 2_000_000)
    registered = load_handlers().get("data_cleaning")
    assert registered is not None
    assert registered.mode == "process"
    processes = ProcessPool(Settings())
    try:
        with pytest.raises(Fail, match="memory limit of 268435456 bytes") as failure:
            await processes.run(
                registered,
                '{"input":"in.csv"}',
                replace(attempt(), type="data_cleaning"),
                Recording(),
                check=lambda: None,
            )
    finally:
        await processes.close()
    assert failure.value.type == "MemoryLimitExceeded"


def test_file_with_an_unknown_suffix_requires_a_format(root: Path) -> None:
    (root / "table").write_text("a\n1\n")
    with pytest.raises(Fail, match="set `format`"):
        clean(input="table")
    assert clean(input="table", format="csv").output == "table.clean.csv"


@pytest.mark.parametrize(
    "name", ["../secret.csv", "a/../../secret.csv", "link.csv", "inside/up/secret.csv"]
)
def test_name_outside_the_folder_is_rejected(root: Path, name: str) -> None:
    secret = root.parent / "secret.csv"
    secret.write_text("a\n1\n")
    (root / "link.csv").symlink_to(secret)
    (root / "inside").mkdir()
    (root / "inside" / "up").symlink_to(root.parent)
    (root / "in.csv").write_text("a\n1\n")
    for options in ({"input": name}, {"input": "in.csv", "output": name}):
        with pytest.raises(Fail, match="outside HEADRACE_FILES_ROOT"):
            clean(**options)
    with pytest.raises(Fail, match="outside HEADRACE_FILES_ROOT"):
        clean(input=str(secret))
    assert secret.read_text() == "a\n1\n"


def test_report_link_to_outside_the_folder_is_rejected(root: Path) -> None:
    outside = root.parent / "outside.json"
    (root / "in.csv").write_text("a\n1\n")
    (root / "in.clean.report.json").symlink_to(outside)
    with pytest.raises(Fail, match="outside HEADRACE_FILES_ROOT"):
        clean(input="in.csv")
    assert not outside.exists()


def test_link_or_absolute_path_inside_the_folder_is_read(root: Path) -> None:
    (root / "deep").mkdir()
    (root / "deep" / "in.csv").write_text("a\n1\n")
    (root / "link.csv").symlink_to(root / "deep" / "in.csv")
    assert clean(input="link.csv").output == "deep/in.clean.csv"
    assert clean(input=str(root / "deep" / "in.csv"), output="new/folder/out.csv").report == (
        "new/folder/out.report.json"
    )


@pytest.mark.parametrize("output", ["in.csv", ".", "folder"])
def test_output_never_replaces_the_input_or_a_folder(root: Path, output: str) -> None:
    (root / "in.csv").write_text("a\n1\n")
    (root / "folder").mkdir()
    with pytest.raises(Fail, match="cannot be overwritten"):
        clean(input="in.csv", output=output)


def test_missing_root_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_FILES_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(Fail, match="HEADRACE_FILES_ROOT"):
        clean(input="in.csv")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rules": {"b": {"required": True}}}, "no column 'b'; it has 'a'"),
        ({"deduplicate": ["b"]}, "no column 'b'"),
        ({"normalise": {"case": {"b": "lower"}}}, "no column 'b'"),
        ({"rules": {"a": {"pattern": "("}}}, "rule of the column 'a'"),
    ],
)
def test_option_that_does_not_match_the_file_fails(
    root: Path, options: dict[str, Any], problem: str
) -> None:
    (root / "in.csv").write_text("a\n1\n")
    with pytest.raises(Fail, match=problem):
        clean(input="in.csv", **options)
    assert [path.name for path in root.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    "rule",
    [
        {"min": 1},
        {"type": "string", "min": "a"},
        {"type": "integer", "min": 1.5},
        {"type": "integer", "max": "9"},
        {"type": "date", "min": "yesterday"},
        {"type": "number", "format": "%d"},
        {"type": "integer", "allowed": ["1"]},
        {"allowed": [1]},
        {"allowed": []},
        {"tpye": "integer"},
    ],
)
def test_invalid_rule_is_rejected(rule: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        clean(input="in.csv", rules={"a": rule})


@pytest.mark.parametrize("kind", ["date", "datetime"])
@pytest.mark.parametrize(
    "pattern",
    ["dd.mm.yyyy", "", "%%", "%d.%m", "%H:%M", "%Q", "%", "%Y-%m-%d %H", "%Y-%m-%d %T,%f"],
)
def test_unsupported_date_format_fails(root: Path, kind: str, pattern: str) -> None:
    (root / "in.csv").write_text("a\n01.02.2003\n")
    with pytest.raises(Fail, match="of the column 'a' cannot be used") as failure:
        clean(input="in.csv", rules={"a": {"type": kind, "format": pattern}})
    assert failure.value.type == "InvalidRule"
    assert [path.name for path in root.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("kind", "pattern", "text"),
    [
        ("date", "%d.%m.%y", "01.02.03"),
        ("date", "%-d %b %Y", "1 Feb 2003"),
        ("date", "%G-W%V-%u", "2003-W05-6"),
        ("datetime", "%d.%m.%Y", "01.02.2003"),
        ("datetime", "%Y-%m-%d %I:%M %p", "2003-02-01 12:00 AM"),
        ("datetime", "%Y-%m-%d %H:%M:%S%.f%#z", "2003-02-01 01:00:00.0+01"),
        ("datetime", "%s", "1044057600"),
    ],
)
def test_date_format_parses_matching_dates(root: Path, kind: str, pattern: str, text: str) -> None:
    rule = {"type": kind, "format": pattern, "min": "2003-02-01", "max": "2003-02-01"}
    result, _, _ = clean_text(root, f"a\n{text}\n", rules={"a": rule})
    assert result.violations == 0


def test_cancelled_job_stops_between_steps(root: Path) -> None:
    (root / "in.csv").write_text("a\n1\n")
    ctx = sync_context()
    ctx._report = lambda _: ctx.cancel_event.set()
    with pytest.raises(Stopped):
        data_cleaning(Cleaning(input="in.csv"), ctx)
    assert [path.name for path in root.iterdir()] == ["in.csv"]


def test_failed_write_keeps_the_previous_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "in.csv").write_text("a\n1\n")
    (root / "in.clean.csv").write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        clean(input="in.csv")
    assert {path.name for path in root.iterdir()} == {"in.csv", "in.clean.csv"}
    assert (root / "in.clean.csv").read_text() == "old"
