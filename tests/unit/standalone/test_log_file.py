"""The log of a process: bounded, and readable from its end."""

from __future__ import annotations

from pathlib import Path

from headrace_standalone.log_file import LogFile


def test_a_log_and_its_predecessor_never_outgrow_their_bound(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", max_bytes=100)
    for number in range(100):
        log.write(f"line {number:03}\n".encode())
    log.close()
    assert {path.name for path in tmp_path.iterdir()} == {"a.log", "a.log.1"}
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert (tmp_path / "a.log").read_text().endswith("line 099\n")


def test_a_log_is_continued(tmp_path: Path) -> None:
    for text in (b"first\n", b"second\n"):
        log = LogFile(tmp_path / "a.log")
        log.write(text)
        log.close()
    assert (tmp_path / "a.log").read_text() == "first\nsecond\n"


def test_its_tail_is_the_last_lines(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log")
    assert log.tail() == ""
    log.write(b"".join(b"line %d\n" % number for number in range(10_000)))
    assert log.tail(2) == "line 9998\nline 9999"
    log.close()


def test_lines_are_echoed_whole(tmp_path: Path) -> None:
    lines: list[str] = []
    log = LogFile(tmp_path / "a.log", echo=lines.append)
    for piece in (b"one\ntw", b"o\nthr", b"ee \xff\n"):
        log.write(piece)
    log.close()
    assert lines == ["one", "two", "three \N{REPLACEMENT CHARACTER}"]
