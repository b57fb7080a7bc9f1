"""The link `meter`: counts calls by method and status, and measures the time of unary calls."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from typing import ClassVar, Final

import grpc
from google.protobuf.message import Message

from headrace_gateway.calls.exchange import Exchange, Method, Proceed

# The upper limits of the buckets, in seconds: those of OpenTelemetry's `rpc.server.call.duration`.
LIMITS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class Times:
    """A histogram of the times of calls. One thread writes it, and any thread may read it.

    Attributes:
        counts: the number of calls in each bucket, and above the last limit.
        total: the sum of all times, in seconds.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LIMITS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count a call."""
        self.counts[bisect_left(LIMITS, seconds)] += 1
        self.total += seconds


class Meter:
    """Measures all calls to Headrace's services.

    Attributes:
        unary: the times of unary calls, by method and status code.
        streams: the number of ended streams, by method and status code. How long a stream lasts
            says nothing about the gateway.
    """

    name: ClassVar[str] = "meter"
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.unary: defaultdict[tuple[str, str], Times] = defaultdict(Times)
        self.streams: defaultdict[tuple[str, str], int] = defaultdict(int)

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that measures a call and calls `proceed`."""
        path = method.path.removeprefix("/")
        clock = time.perf_counter

        async def unary(exchange: Exchange) -> Message | None:
            started = clock()
            try:
                return await proceed(exchange)
            except asyncio.CancelledError:
                exchange.code = grpc.StatusCode.CANCELLED
                raise
            finally:
                self.unary[path, exchange.code.name].add(clock() - started)

        async def stream(exchange: Exchange) -> Message | None:
            try:
                return await proceed(exchange)
            except asyncio.CancelledError:
                exchange.code = grpc.StatusCode.CANCELLED
                raise
            finally:
                self.streams[path, exchange.code.name] += 1

        return stream if method.streams_responses else unary


def cumulative(times: Times) -> Mapping[str, int]:
    """Return the number of calls up to each limit, in Prometheus' names of the limits."""
    below, found = 0, {}
    for limit, count in zip((*map(str, LIMITS), "+Inf"), list(times.counts), strict=True):
        below += count
        found[limit] = below
    return found
