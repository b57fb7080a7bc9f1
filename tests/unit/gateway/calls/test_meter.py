"""The link that measures calls."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from headrace.v1.job_service_pb2 import GetJobRequest, WatchJobRequest
from headrace_gateway.calls.exchange import Exchange, Method
from headrace_gateway.calls.meter import LIMITS, Meter
from headrace_gateway.histogram import Histogram

UNARY = Method(path="/headrace.v1.JobService/GetJob", request_class=GetJobRequest)
STREAM = Method(
    path="/headrace.v1.JobService/WatchJob", request_class=WatchJobRequest, streams_responses=True
)
NAME = "headrace.v1.JobService/GetJob"


class Context:
    """A gRPC context without metadata."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def write(self, message: Message) -> None: ...


def exchange() -> Exchange:
    context: Any = Context()
    return Exchange(b"", context)


async def answer(_: Exchange) -> None: ...


async def abort(exchange: Exchange) -> None:
    exchange.code = grpc.StatusCode.NOT_FOUND
    raise grpc.aio.AbortError


async def cancel(_: Exchange) -> None:
    raise asyncio.CancelledError


async def test_unary_calls_are_counted_by_their_status() -> None:
    meter = Meter()
    await meter.wrap(UNARY, answer)(exchange())
    await meter.wrap(UNARY, answer)(exchange())
    with pytest.raises(grpc.aio.AbortError):
        await meter.wrap(UNARY, abort)(exchange())
    with pytest.raises(asyncio.CancelledError):
        await meter.wrap(UNARY, cancel)(exchange())
    counts = {key: times.cumulative()[-1] for key, times in meter.unary.items()}
    assert counts == {(NAME, "OK"): 2, (NAME, "NOT_FOUND"): 1, (NAME, "CANCELLED"): 1}
    assert not meter.streams


async def test_streams_are_counted_at_their_end() -> None:
    meter = Meter()
    await meter.wrap(STREAM, answer)(exchange())
    with pytest.raises(grpc.aio.AbortError):
        await meter.wrap(STREAM, abort)(exchange())
    path = STREAM.path.removeprefix("/")
    assert meter.streams == {(path, "OK"): 1, (path, "NOT_FOUND"): 1}
    assert not meter.unary


def test_limits_are_inclusive() -> None:
    times = Histogram(LIMITS)
    times.count((0.001, 0.005))
    times.count((0.006, 3.0, 60.0))
    below = dict(times.buckets())
    assert (below["0.005"], below["0.01"], below["2.5"], below["5.0"]) == (2, 3, 3, 4)
    assert below["+Inf"] == 5
    assert len(below) == len(LIMITS) + 1
    assert times.total == pytest.approx(63.012)
