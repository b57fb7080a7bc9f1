"""Logs show the origin of an error, but no payload."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from headrace_core.runtime import logs
from headrace_core.runtime.settings import Settings


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail(payload: str) -> None:
    inner = f"the first line describes the problem\nDETAIL: {payload}"
    try:
        raise KeyError(payload[:0])
    except KeyError as cause:
        error = ExceptionGroup("some", [ValueError(inner)])
        error.add_note(payload)
        raise error from cause


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_error_shows_frames_and_first_line_but_no_variables(
    capsys: pytest.CaptureFixture[str], log_format: Literal["json", "console"]
):
    logs.configure(Settings(log_format=log_format), service="gateway")
    try:
        fail("secret words")
    except ExceptionGroup:
        structlog.get_logger().exception("call_failed")
        logging.getLogger("library").exception("it broke")
    output = capsys.readouterr()
    assert output.out == ""
    assert "secret words" not in output.err
    assert ('"name": "fail"' if log_format == "json" else " in fail\n") in output.err
    assert "ExceptionGroup" in output.err
    assert "KeyError" in output.err
    for line in output.err.splitlines() if log_format == "json" else ():
        event = json.loads(line)
        assert event["service"] == "gateway"
        assert "the first line describes the problem" in line


def test_console_shows_a_stack_trace_below_its_line(capsys: pytest.CaptureFixture[str]):
    logs.configure(Settings(log_format="console"), service="worker")
    structlog.get_logger().error("job_failed", stack_trace="Traceback:\n  File a.py")
    assert "Traceback:\n  File a.py\n" in capsys.readouterr().err
