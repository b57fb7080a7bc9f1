"""A collector of OpenTelemetry: receives spans over OTLP, as Jaeger and Tempo do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

# The limit of a wait in seconds, generous because the machine may be busy.
_DEADLINE_S = 60


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span, with hexadecimal ids and times in nanoseconds."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]
    text: str

    @property
    def ids(self) -> tuple[str, str]:
        """The ids of the trace and of the span."""
        return self.trace_id, self.span_id


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """The received spans.

    Attributes:
        port: the port on 127.0.0.1.
    """

    def __init__(self) -> None:
        self.port = 0
        self._spans: list[ReceivedSpan] = []
        self._arrived = threading.Condition()

    def Export(  # noqa: N802 - a method of the contract
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        spans = [
            _received(span, _values(group.resource.attributes)["service.name"])
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        with self._arrived:
            self._spans += spans
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[ReceivedSpan]:
        """The spans so far."""
        with self._arrived:
            return list(self._spans)

    def wait_for(self, *names: str) -> list[ReceivedSpan]:
        """Wait for one span of each name; return the first of each. Blocks the thread."""
        found: dict[str, ReceivedSpan] = {}

        def arrived() -> bool:
            for span in reversed(self._spans):
                found[span.name] = span
            return found.keys() >= set(names)

        with self._arrived:
            if not self._arrived.wait_for(arrived, timeout=_DEADLINE_S):
                raise AssertionError(f"received only {sorted(found)}")
        return [found[name] for name in names]


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Run a collector for the duration of the block."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def _received(span: Any, service: str) -> ReceivedSpan:
    return ReceivedSpan(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
        text=str(span),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in attributes
    }
