"""Traces: spans of OpenTelemetry, sent to a collector as the OTEL_ variables configure it.

Without these variables nothing of OpenTelemetry is imported. `docs/tracing.md` describes the spans.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import structlog
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from headrace_core.domain.trace import TraceContext
from headrace_core.runtime.settings import StartRefused

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_log = structlog.get_logger()

_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

_QUEUE_SIZE: Final = "OTEL_BSP_MAX_QUEUE_SIZE"
# OpenTelemetry's default.
_DEFAULT_QUEUE_SIZE: Final = 2048

# The maximum duration of the last export when a service stops, in seconds.
_FLUSH_S: Final = 2.0
# Seconds between two log lines about lost spans: an unreachable collector loses every batch.
_LOG_INTERVAL_S: Final = 60.0
# These loggers write a line for each failed export and each dropped span.
_NOISY_LOGGERS: Final = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal")

Attributes: TypeAlias = Mapping[str, str | int | float]
NO_ATTRIBUTES: Final[Attributes] = MappingProxyType({})


class SpanKind(Enum):
    """The role of a span in a call or a delivery."""

    INTERNAL = auto()
    SERVER = auto()
    PRODUCER = auto()
    CONSUMER = auto()


class Span:
    """An open span. It is never sent if it is not ended."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def context(self) -> TraceContext:
        """The context with which other calls and spans join this span."""
        context = self._span.get_span_context()
        return TraceContext(
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}",
            context.trace_state.to_header(),
        )

    def attach(self) -> None:
        """Make the span the current one in the running task or thread, until that ends."""
        _attach(self._span)

    def end(
        self, attributes: Attributes = NO_ATTRIBUTES, *, error: str = "", at: int | None = None
    ) -> None:
        """End the span. Nothing happens if it has ended.

        Args:
            attributes: further attributes.
            error: the type of the error with which the operation failed; empty for none. A message
                could contain a part of a payload.
            at: the time of the end, in nanoseconds since 1970; None for now.
        """
        span = self._span
        if not span.is_recording():
            return
        span.set_attributes(attributes)
        if error:
            from opentelemetry.trace import StatusCode  # noqa: PLC0415 - see the module

            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        span.end(at)


class Tracing:
    """The spans of one service.

    Spans wait in a bounded queue for a thread that sends them in batches. A span that does not fit
    into the queue is dropped, so a slow collector never delays a caller.

    Args:
        service: the name of the service, unless OTEL_SERVICE_NAME sets another one.

    Attributes:
        exports: the results of all exports.

    Raises:
        StartRefused: the variables cannot be used, or OpenTelemetry is not installed.
    """

    def __init__(self, service: str) -> None:
        _check_variables(os.environ)
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        except ImportError as error:
            raise StartRefused(
                f"the variables OTEL_… request traces, but {error.name} is not installed; install "
                "headrace-core[tracing], or set OTEL_TRACES_EXPORTER=none"
            ) from None
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.exports = Exports()
        # The process ends without the exit handler, which could wait for a collector.
        self._provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
        self._provider.sampler = _follow_links(self._provider.sampler)
        self._provider.add_span_processor(_processor(OTLPSpanExporter(), self.exports))
        self._tracer = self._provider.get_tracer("headrace")

    @property
    def provider(self) -> TracerProvider:
        """The provider of OpenTelemetry, for the spans of handlers."""
        return self._provider

    def start(
        self,
        name: str,
        kind: SpanKind,
        *,
        parent: TraceContext | None = None,
        link: TraceContext | None = None,
        attributes: Attributes = NO_ATTRIBUTES,
        at: int | None = None,
    ) -> Span:
        """Start a span.

        Args:
            name: the name of the operation, without ids.
            kind: the role of the span.
            parent: the span that contains this one; None for a new trace.
            link: the span that caused this one, possibly days earlier. A new trace is sampled if
                and only if the trace of this span is.
            attributes: the attributes.
            at: the time of the start, in nanoseconds since 1970; None for now.
        """
        from opentelemetry import trace  # noqa: PLC0415 - see the module
        from opentelemetry.context import Context  # noqa: PLC0415

        context = Context()
        if parent is not None:
            context = trace.set_span_in_context(_remote_span(parent), context)
        links = () if link is None else (trace.Link(_remote_span(link).get_span_context()),)
        span = self._tracer.start_span(
            name,
            context,
            kind=trace.SpanKind[kind.name],
            attributes=attributes,
            links=links,
            start_time=at,
        )
        return Span(span)

    async def flush(self) -> None:
        """Send the spans that wait, within two seconds."""
        loop = asyncio.get_running_loop()
        flushed = asyncio.Event()

        def flush() -> None:
            self._provider.force_flush()
            # The loop may have ended meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(flushed.set)

        # An executor would wait for the thread when the process ends.
        threading.Thread(target=flush, name="flush-spans", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await flushed.wait()


@cache
def start_tracing(service: str) -> Tracing | None:
    """Return the traces of this process; None if the variables do not request them.

    OpenTelemetry's global provider then is the one of this service.

    Raises:
        StartRefused: see `Tracing`.
    """
    if not is_requested(os.environ):
        return None
    tracing = Tracing(service)
    from opentelemetry import trace  # noqa: PLC0415 - see the module

    trace.set_tracer_provider(tracing.provider)
    return tracing


def is_requested(variables: Mapping[str, str]) -> bool:
    """Return whether environment variables request traces."""
    if variables.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporter := variables.get(_EXPORTER, ""):
        return exporter != "none"
    return any(variables.get(name) for name in _ENDPOINTS)


def continue_trace(context: TraceContext) -> None:
    """Make the span of another process the current one in this task or thread, until that ends.

    Without a request for traces, this does nothing.
    """
    if is_requested(os.environ):
        _attach(_remote_span(context))


class Exports:
    """The number of spans in the queue, and the results of their exports. It is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = self._unlogged = 0
        self._next_line = 0.0
        self.exported = self.lost = 0

    def admit(self, limit: int) -> bool:
        """Count a span for the queue; return False, and count it as lost, if the queue is full."""
        with self._lock:
            if self._waiting < limit:
                self._waiting += 1
                return True
        self.note_lost(1, "QueueFull")
        return False

    def take(self, spans: int) -> None:
        """Count spans that have left the queue."""
        with self._lock:
            self._waiting -= spans

    def note_exported(self, spans: int) -> None:
        """Count spans that the collector has received."""
        with self._lock:
            self.exported += spans

    def note_lost(self, spans: int, reason: str) -> None:
        """Count spans that were not sent, and log them at most once a minute."""
        with self._lock:
            self.lost += spans
            self._unlogged += spans
            now = time.monotonic()
            if now < self._next_line:
                return
            self._next_line = now + _LOG_INTERVAL_S
            unlogged, self._unlogged = self._unlogged, 0
        _log.warning("spans_lost", spans=unlogged, reason=reason)


class SpanMetrics(Collector):
    """The metrics of a service's spans.

    Args:
        tracing: the spans; None if the service writes none.
    """

    def __init__(self, tracing: Tracing | None) -> None:
        self._tracing = tracing

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers of exported and lost spans; none without traces."""
        if self._tracing is None:
            return
        exports = self._tracing.exports
        yield CounterMetricFamily(
            "headrace_spans_exported", "Spans that the collector has received.", exports.exported
        )
        yield CounterMetricFamily(
            "headrace_spans_lost",
            "Spans that were not sent, because the queue was full or an export failed.",
            exports.lost,
        )


def _check_variables(variables: Mapping[str, str]) -> None:
    exporter = variables.get(_EXPORTER) or "otlp"
    if exporter != "otlp":
        raise StartRefused(f"{_EXPORTER} is {exporter!r}; use otlp or none")
    for name in _PROTOCOLS:
        if (protocol := variables.get(name) or "grpc") != "grpc":
            raise StartRefused(f"{name} is {protocol!r}; use grpc")


def _resource(service: str) -> Any:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: f"headrace-{service}"}))
    return resource


def _follow_links(roots: Any) -> Any:
    """Return a sampler that decides for a linked trace as for the trace of its first link."""
    from opentelemetry.sdk.trace.sampling import (  # noqa: PLC0415 - see the module
        Decision,
        Sampler,
        SamplingResult,
    )
    from opentelemetry.trace import get_current_span  # noqa: PLC0415

    class FollowLinks(Sampler):
        def should_sample(  # noqa: PLR0917 - the signature of OpenTelemetry
            self,
            parent_context: Any,
            trace_id: int,
            name: str,
            kind: Any = None,
            attributes: Any = None,
            links: Any = None,
            trace_state: Any = None,
        ) -> SamplingResult:
            parent = get_current_span(parent_context).get_span_context()
            if links and not parent.is_valid:
                sampled = links[0].context.trace_flags.sampled
                decision = Decision.RECORD_AND_SAMPLE if sampled else Decision.DROP
                return SamplingResult(decision, attributes)
            result: SamplingResult = roots.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )
            return result

        def get_description(self) -> str:
            return f"FollowLinks{{{roots.get_description()}}}"

    return FollowLinks()


def _processor(exporter: SpanExporter, exports: Exports) -> Any:
    """Return a processor that sends spans in batches, and counts the lost ones."""
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415 - see the module
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )

    class CountedExporter(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            exports.take(len(spans))
            try:
                result = exporter.export(spans)
            except Exception as error:  # noqa: BLE001 - the thread must go on
                exports.note_lost(len(spans), type(error).__name__)
                return SpanExportResult.FAILURE
            if result is SpanExportResult.SUCCESS:
                exports.note_exported(len(spans))
            else:
                exports.note_lost(len(spans), "ExportFailed")
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    class BoundedProcessor(BatchSpanProcessor):
        """Drops spans itself, because OpenTelemetry does not count them."""

        def on_end(self, span: ReadableSpan) -> None:
            context = span.context
            if context is not None and context.trace_flags.sampled and exports.admit(size):
                super().on_end(span)

    try:
        size = int(os.environ.get(_QUEUE_SIZE) or _DEFAULT_QUEUE_SIZE)
        return BoundedProcessor(CountedExporter(), max_queue_size=size)
    except ValueError as error:
        raise StartRefused(f"the variables OTEL_BSP_… cannot be used: {error}") from None


def _attach(span: trace.Span) -> None:
    from opentelemetry import context, trace  # noqa: PLC0415 - see the module

    context.attach(trace.set_span_in_context(span))


def _remote_span(context: TraceContext) -> trace.NonRecordingSpan:
    from opentelemetry.trace import (  # noqa: PLC0415 - see the module
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        TraceState,
    )

    _, trace_id, span_id, flags = context.traceparent.split("-")[:4]
    return NonRecordingSpan(
        SpanContext(
            trace_id=int(trace_id, 16),
            span_id=int(span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(int(flags, 16)),
            trace_state=TraceState.from_header([context.tracestate]),
        )
    )
