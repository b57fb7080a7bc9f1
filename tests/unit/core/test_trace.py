"""The trace context that a call carries in its headers."""

from __future__ import annotations

import pytest

from headrace_core.domain.trace import TraceContext, read_trace_context

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("traceparent", PARENT)], TraceContext(PARENT)),
        ([("tracestate", "a=1"), ("traceparent", PARENT)], TraceContext(PARENT, "a=1")),
        (
            [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", " b=2 ")],
            TraceContext(PARENT, "a=1,b=2"),
        ),
        # The same value twice is not a contradiction.
        ([("traceparent", PARENT), ("traceparent", PARENT)], TraceContext(PARENT)),
        # A state that is too long, or not printable, is dropped; the parent stays.
        ([("traceparent", PARENT), ("tracestate", "a=" + "1" * 511)], TraceContext(PARENT)),
        ([("traceparent", PARENT), ("tracestate", "a=é")], TraceContext(PARENT)),
    ],
)
def test_valid_headers_are_read(
    headers: list[tuple[str, str | bytes]], expected: TraceContext
) -> None:
    context = read_trace_context(headers)
    assert context == expected
    assert TraceContext.parse(str(context)) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        PARENT.upper(),
        f"{PARENT}-01",
        f"ff{PARENT[2:]}",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        PARENT.encode(),
    ],
)
def test_invalid_traceparent_is_ignored(value: str | bytes) -> None:
    assert read_trace_context([("traceparent", value), ("tracestate", "a=1")]) is None


def test_contradicting_traceparents_are_ignored() -> None:
    other = PARENT.replace("b7-01", "b8-01")
    assert read_trace_context([("traceparent", PARENT), ("traceparent", other)]) is None
