"""The log has a limited number of lines per status code, and counts the omitted ones."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from headrace_gateway.calls.errors import FailureLog


async def test_failures_beyond_the_limit_are_counted_per_status_code() -> None:
    failures = FailureLog(lines=2, period=0.01)
    with capture_logs() as lines:
        for number in range(5):
            failures.write("warning", code="UNAVAILABLE", method=f"/m{number}")
        failures.write("error", code="INTERNAL", method="/m")
        while not any(line["event"] == "calls_failed" for line in lines):
            await asyncio.sleep(0.001)
        # The next period starts at zero.
        failures.write("warning", code="UNAVAILABLE", method="/m9")
    written = [
        (line["log_level"], line["code"], line["method"]) for line in lines if "method" in line
    ]
    assert written == [
        ("warning", "UNAVAILABLE", "/m0"),
        ("warning", "UNAVAILABLE", "/m1"),
        ("error", "INTERNAL", "/m"),
        ("warning", "UNAVAILABLE", "/m9"),
    ]
    (rest,) = [line for line in lines if line["event"] == "calls_failed"]
    assert (rest["code"], rest["not_logged"]) == ("UNAVAILABLE", 3)
