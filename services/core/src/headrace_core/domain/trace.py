"""The trace context of a job, in the form of W3C Trace Context: `traceparent` and `tracestate`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

# Version, trace id, span id and flags. The version ff and ids of zeros are invalid.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
# The size that every participant of a trace must pass on.
_MAX_TRACESTATE: Final = 512


class TraceContext(NamedTuple):
    """The place of a call in a trace.

    Attributes:
        traceparent: the trace, the span and the flags.
        tracestate: the data of tracing systems; empty for none.
    """

    traceparent: str
    tracestate: str = ""

    def __str__(self) -> str:
        """Return the stored form."""
        return f"{self.traceparent} {self.tracestate}".rstrip()

    @classmethod
    def parse(cls, stored: str) -> TraceContext:
        """Return the context that has this stored form."""
        traceparent, _, tracestate = stored.partition(" ")
        return cls(traceparent, tracestate)


def read_trace_context(headers: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    """Return the trace context of a call; None if it has none, or an invalid one.

    An invalid context is ignored: the specification requires a participant to start a new trace.
    """
    traceparent = ""
    states: list[str] = []
    for key, value in headers:
        if key == TRACEPARENT and isinstance(value, str):
            # Several values contradict each other.
            if traceparent and value != traceparent:
                return None
            traceparent = value
        elif key == TRACESTATE and isinstance(value, str):
            states.append(value.strip())
    if not _TRACEPARENT.fullmatch(traceparent):
        return None
    tracestate = ",".join(states)
    if len(tracestate) > _MAX_TRACESTATE or not (tracestate.isascii() and tracestate.isprintable()):
        tracestate = ""
    return TraceContext(traceparent, tracestate)
