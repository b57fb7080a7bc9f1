"""The link `meter`: counts calls by method and status, and measures the time of unary calls."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from functools import partial
from typing import ClassVar, Final

import grpc
from google.protobuf.message import Message

from headrace_gateway.calls.exchange import Exchange, Method, Proceed
from headrace_gateway.histogram import Histogram

# The upper limits of the buckets, in seconds: those of OpenTelemetry's `rpc.server.call.duration`.
LIMITS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


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
        self.unary: defaultdict[tuple[str, str], Histogram] = defaultdict(
            partial(Histogram, LIMITS)
        )
        self.streams: defaultdict[tuple[str, str], int] = defaultdict(int)

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that measures a call and calls `proceed`."""
        path = method.path.removeprefix("/")
        record = self._record_stream if method.streams_responses else self._record_unary
        clock = time.perf_counter

        async def measure(exchange: Exchange) -> Message | None:
            started = clock()
            try:
                return await proceed(exchange)
            except asyncio.CancelledError:
                exchange.code = grpc.StatusCode.CANCELLED
                raise
            finally:
                record((path, exchange.code.name), clock() - started)

        return measure

    def _record_unary(self, key: tuple[str, str], seconds: float) -> None:
        self.unary[key].count((seconds,))

    def _record_stream(self, key: tuple[str, str], _seconds: float) -> None:
        self.streams[key] += 1
