"""Log lines of handlers contain their job's fields, and are bounded in size and rate."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import JobId, uuid7
from headrace_core.runtime import logs
from headrace_core.runtime.settings import Settings
from headrace_worker.runners import ownership
from headrace_worker.runners.handler_logs import HandlerLines
from headrace_worker.runners.ownership import Owner, owned_by

JOB = JobId(uuid7())
JOB_FIELDS = {
    "job_id": str(JOB),
    "attempt": 2,
    "type": "t.x",
    "correlation_id": "trace-17",
    "source": "handler",
}


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The worker's log as JSON."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    target = io.StringIO()
    monkeypatch.setattr(sys, "stderr", target)
    logs.configure(Settings(log_format="json"), service="worker", foreign=HandlerLines())
    yield target
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch) -> Owner:
    # Time does not advance, so each rate limit allows a fixed number of lines.
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(ownership, "_process_bucket", ownership._TokenBucket(2000, 1.0))
    return Owner(AttemptKey(JOB, 2), type="t.x", correlation_id="trace-17", module="tests.x")


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_handler_line_has_the_fields_of_its_job(log: io.StringIO, attempt: Owner) -> None:
    with owned_by(attempt):
        structlog.get_logger().info("by_structlog", rows=3, nested={"a": [1, 2.5, None]})
        logging.getLogger("shop.orders").info("by %s", "logging")
        logging.info("by the root logger")  # noqa: LOG015 - as a handler may do
        logging.getLogger("shop.orders").debug("too low")
    first, second, third = lines(log)
    for line in (first, second, third):
        assert JOB_FIELDS.items() <= line.items()
        assert (line["level"], line["service"]) == ("info", "worker")
    assert (first["event"], first["rows"]) == ("by_structlog", 3)
    assert first["nested"] == {"a": [1, 2.5, None]}
    assert (second["event"], second["logger"]) == ("by logging", "shop.orders")


def test_field_with_a_reserved_name_gets_a_suffix(log: io.StringIO, attempt: Owner) -> None:
    with owned_by(attempt):
        structlog.get_logger().info("sent", type="order", job_id="mine")
    [line] = lines(log)
    assert JOB_FIELDS.items() <= line.items()
    assert (line["type_"], line["job_id_"]) == ("order", "mine")


def test_library_lines_below_warning_are_dropped(log: io.StringIO, attempt: Owner) -> None:
    outside = logging.getLogger("library")
    outside.info("outside of any handler")
    with owned_by(attempt):
        record = outside.makeRecord(
            "httpx", logging.INFO, "/v/site-packages/httpx/_client.py", 1, "url", (), None
        )
        outside.handle(record)
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        outside.handle(record)
        # The handler's package may be installed.
        own = outside.makeRecord(
            "tests.shop", logging.INFO, "/v/site-packages/tests/shop.py", 1, "own", (), None
        )
        outside.handle(own)
    assert [line["event"] for line in lines(log)] == ["url", "own"]


@pytest.mark.parametrize(
    ("module", "source"),
    [("headrace_core.runtime.tasks", None), ("headrace_handlers.email", "handler")],
)
def test_line_source_depends_on_the_calling_module(
    log: io.StringIO, attempt: Owner, module: str, source: str | None
) -> None:
    code = {"__name__": module, "log": structlog.get_logger()}
    exec("def warn(): log.warning('called')", code)
    warn: Any = code["warn"]
    with owned_by(attempt):
        warn()
    [line] = lines(log)
    assert line["event"] == "called"
    assert line.get("source") == source


class Hostile(dict[str, str]):
    def __repr__(self) -> str:
        raise SystemExit(2)

    def items(self) -> Any:
        raise RuntimeError("no items")


class Unprintable:
    def __repr__(self) -> str:
        raise SystemExit(2)

    __str__ = __repr__


def test_hostile_line_is_logged_in_a_safe_form(log: io.StringIO, attempt: Owner) -> None:
    logger = structlog.get_logger()
    # The log handlers of pytest raise errors that the worker's handler swallows.
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler, logs._Handler)]
    with owned_by(attempt):
        logger.info("a\x00b\x1b[2J\udcff", value=Hostile(), other=Unprintable(), nan=float("nan"))
        logger.info("x" * 10_000_000, big="y" * 10_000_000, number=10**10_000)
        logger.info("many", **{f"field{number}": "\U0001f600" * 500 for number in range(500)})
        logger.info(Unprintable())
        logging.getLogger("shop").info("%d", "payload words")
        logging.getLogger("shop").info(Unprintable())
    shown = log.getvalue().splitlines()
    assert len(shown) == 6
    assert all(len(line) <= 4096 for line in shown)
    assert "payload words" not in log.getvalue()
    first = json.loads(shown[0])
    assert first["event"] == "a?b?[2J?"
    assert first["value"] == "<Hostile>"
    assert [json.loads(line)["event"] for line in shown[-2:]] == ["log_line_failed"] * 2


def test_exception_in_a_handler_line_has_a_bounded_trace(log: io.StringIO, attempt: Owner) -> None:
    with owned_by(attempt):
        try:
            raise ValueError("no such order\nDETAIL: payload words")
        except ValueError:
            structlog.get_logger().exception("it_broke")
            logging.getLogger("shop").exception("it broke")
    for line in lines(log):
        assert line["stack_trace"].endswith("ValueError: no such order")
        assert "exception" not in line
    assert len(lines(log)) == 2


def test_flood_of_lines_is_cut_and_counted(log: io.StringIO, attempt: Owner) -> None:
    with owned_by(attempt):
        for number in range(500):
            structlog.get_logger().info("flood", number=number)
            logging.getLogger("shop").warning("flood %d", number)
    attempt.close_log()
    *shown, last = lines(log)
    assert len(shown) == 200
    assert (last["event"], last["lines"], last["level"]) == ("handler_log_dropped", 800, "warning")
    assert last["job_id"] == str(JOB)
    # The other attempt is not affected.
    other = Owner(AttemptKey(JOB, 3), type="t", module="m")
    with owned_by(other):
        structlog.get_logger().info("calm")
    other.close_log()
    assert lines(log)[-1]["event"] == "calm"


def test_closed_stderr_does_not_raise(log: io.StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    log.close()
    structlog.get_logger().warning("after_the_end")
    logging.getLogger("shop").warning("after the end")
    assert "after_the_end" in capfd.readouterr().err


def test_logging_configured_by_a_handler_is_replaced(
    monkeypatch: pytest.MonkeyPatch, attempt: Owner
) -> None:
    target = io.StringIO()
    monkeypatch.setattr(sys, "stderr", target)
    set_up = logs.configure(Settings(), service="worker", foreign=HandlerLines())
    foreign = logging.NullHandler()
    logging.basicConfig(level=logging.ERROR, handlers=[foreign], force=True)
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    set_up()
    with owned_by(attempt):
        structlog.get_logger().info("by_structlog")
        logging.getLogger("shop").info("by logging")
    assert [line["event"] for line in lines(target)] == ["by_structlog", "by logging"]
    # An error tracker may have installed this log handler.
    assert foreign in logging.getLogger().handlers
