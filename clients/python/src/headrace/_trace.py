"""The trace context of the calling program, for submits."""

from __future__ import annotations

import sys
from typing import Final

from headrace._headers import Metadata

# W3C Trace Context.
_NAMES: Final = ("traceparent", "tracestate")


def trace_headers() -> Metadata:
    """Return the headers of the current OpenTelemetry span; none outside of a span.

    The client does not depend on OpenTelemetry. A program that has not imported it has no span.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    # Imported here, because most programs do not have the package.
    from opentelemetry.propagate import inject  # noqa: PLC0415

    carrier: dict[str, str] = {}
    inject(carrier)
    return tuple((name, carrier[name]) for name in _NAMES if carrier.get(name))
