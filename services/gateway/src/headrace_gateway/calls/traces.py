"""The link `traces`: writes a span for each submit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from headrace_core.runtime.tracing import Span, SpanKind, Tracing
from headrace_gateway.calls.call import Call
from headrace_gateway.calls.exchange import Exchange, Method, Proceed
from headrace_gateway.calls.statuses import to_call_error

M = TypeVar("M", bound=Message)

# The jobs of these methods keep the context of the span. Each entry of SubmitJobs has its own.
_SUBMITS: Final = frozenset(
    f"/headrace.v1.JobService/{name}" for name in ("SubmitJob", "BatchSubmitJobs", "SubmitAndWatch")
)
# The codes of faults of the server.
_FAULTS: Final = frozenset(
    {
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)


class SubmitSpans:
    """The spans of one method that submits jobs.

    Args:
        tracing: receives the spans.
        path: the path of the method.
    """

    def __init__(self, tracing: Tracing, path: str) -> None:
        self._tracing = tracing
        self._name = path.removeprefix("/")
        service, _, rpc = self._name.partition("/")
        self._attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": rpc}

    @contextmanager
    def open(self, call: Call) -> Iterator[tuple[Span, Call]]:
        """Open the span of a submit; an error in the block ends it.

        Returns:
            The span, and the call whose jobs keep its context.
        """
        span = self._tracing.start(
            self._name,
            SpanKind.SERVER,
            parent=call.trace_context,
            attributes={**self._attributes, "headrace.tenant": call.tenant},
        )
        try:
            yield span, replace(call, span_context=span.context)
        except BaseException as error:
            _end_failed(span, error)
            raise

    async def trace(self, call: Call, submit: Callable[[Call], Awaitable[M]]) -> M:
        """Return the response of a submit, and write its span."""
        with self.open(call) as (span, traced):
            response = await submit(traced)
        _end(span, response)
        return response


class Traces:
    """Writes a span for each submit that is authorized, as a part of its caller's trace.

    The span of a `SubmitAndWatch` ends when its job is stored, because the job can run for days.

    Args:
        tracing: receives the spans.
    """

    name: ClassVar[str] = "traces"
    needs: ClassVar[tuple[str, ...]] = ("errors", "authorize")

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that writes the span of a submit."""
        if method.path not in _SUBMITS:
            return proceed
        spans = SubmitSpans(self._tracing, method.path)

        async def trace(exchange: Exchange) -> Message | None:
            with spans.open(exchange.call) as (span, exchange.call):
                if method.streams_responses:
                    exchange.write = _end_with_first(exchange.write, span)
                response = await proceed(exchange)
            if response is not None:
                _end(span, response)
            return response

        return trace


def _end_with_first(
    write: Callable[[Message], Awaitable[None]], span: Span
) -> Callable[[Message], Awaitable[None]]:
    """Return a function that writes responses, and ends the span with the first one."""
    first = True

    async def write_and_end(response: Message) -> None:
        nonlocal first
        await write(response)
        if first:
            first = False
            _end(span, response)

    return write_and_end


def _end(span: Span, response: Message) -> None:
    attributes: dict[str, str | int] = {"rpc.grpc.status_code": 0}
    if job_id := getattr(getattr(response, "job", None), "id", ""):
        attributes["headrace.job.id"] = job_id
    if batch_id := getattr(response, "batch_id", ""):
        attributes["headrace.batch.id"] = batch_id
    span.end(attributes)


def _end_failed(span: Span, error: BaseException) -> None:
    """End a span with the status of the call; a span that has ended does not change."""
    code = grpc.StatusCode.CANCELLED
    # gRPC raises InternalError if the client has closed the call.
    if isinstance(error, Exception) and not isinstance(error, grpc.aio.InternalError):
        code = to_call_error(error, request_id="").code
    span.end({"rpc.grpc.status_code": code.value[0]}, error=code.name if code in _FAULTS else "")
