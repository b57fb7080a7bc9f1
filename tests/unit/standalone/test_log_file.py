"""The log file of a process: bounded in size, with access to its last lines."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_standalone.log_file import LogFile


def test_log_and_its_predecessor_stay_within_their_limit(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", max_bytes=100)
    for number in range(100):
        log.write(f"line {number:03}\n".encode())
    log.close()
    assert {path.name for path in tmp_path.iterdir()} == {"a.log", "a.log.1"}
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert (tmp_path / "a.log").read_text().endswith("line 099\n")


def test_existing_log_is_continued(tmp_path: Path) -> None:
    for text in (b"first\n", b"second\n"):
        log = LogFile(tmp_path / "a.log")
        log.write(text)
        log.close()
    assert (tmp_path / "a.log").read_text() == "first\nsecond\n"


def test_tail_returns_the_last_lines(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log")
    assert log.tail() == ""
    log.write(b"".join(b"line %d\n" % number for number in range(10_000)))
    assert log.tail(2) == "line 9998\nline 9999"
    log.close()


def test_split_lines_are_echoed_whole(tmp_path: Path) -> None:
    lines: list[str] = []
    log = LogFile(tmp_path / "a.log", echo=lines.append)
    for piece in (b"one\ntw", b"o\nthr", b"ee \xff\n"):
        log.write(piece)
    log.close()
    assert lines == ["one", "two", "three \N{REPLACEMENT CHARACTER}"]


def remove(file: Path) -> None:
    file.unlink()


def rename(file: Path) -> None:
    file.rename(file.with_name("rotated.log"))


def truncate(file: Path) -> None:
    file.write_bytes(b"")


def remove_folder(file: Path) -> None:
    shutil.rmtree(file.parent)


def replace(file: Path) -> None:
    rename(file)
    file.touch()


@pytest.mark.parametrize(
    "change",
    [remove, rename, truncate, remove_folder, replace],
    ids=lambda one: one.__name__,
)
def test_changed_file_receives_every_later_line(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    file = tmp_path / "logs" / "a.log"
    log = LogFile(file, max_bytes=100)
    log.write(b"before\n")
    change(file)
    log.tail()
    log.write(b"after\n")
    assert file.read_bytes() == b"after\n"
    assert log.tail() == "after"
    # Rotation still works.
    change(file)
    for number in range(100):
        log.write(b"line %03d\n" % number)
    log.close()
    assert file.read_bytes().endswith(b"line 099\n")
    assert all(path.stat().st_size <= 100 for path in file.parent.iterdir())
    log.write(b"late\n")
    assert file.read_bytes().endswith(b"late\n")
    log.close()


def test_lines_are_lost_while_the_file_cannot_be_opened(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "a.log"
    echoed: list[str] = []
    log = LogFile(file, echo=echoed.append)
    shutil.rmtree(file.parent)
    file.parent.write_text("a file in place of the folder")
    log.write(b"lost\n")
    assert log.tail() == ""
    file.parent.unlink()
    log.write(b"kept\n")
    log.close()
    assert file.read_bytes() == b"kept\n"
    assert echoed == ["lost", "kept"]
