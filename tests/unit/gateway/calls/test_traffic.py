"""Which calls count for the traffic of a connection."""

from __future__ import annotations

import asyncio
import typing

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from headrace_gateway.calls.exchange import Context, Exchange, Method
from headrace_gateway.calls.traffic import Traffic

METHOD = Method(path="/headrace.v1.JobService/GetStats", request_class=Empty)
REQUEST = b"x" * 100


class _Context:
    """The context of a call from port 41234."""

    write = None

    def invocation_metadata(self) -> None:
        return None

    def peer(self) -> str:
        return "ipv6:%5B::1%5D:41234"


async def count(error: BaseException | None = None, *, traffic: Traffic) -> None:
    """Pass a call through the link; the rest of the chain raises `error` if there is one."""

    async def proceed(exchange: Exchange) -> Message | None:
        exchange.release()
        if error is not None:
            raise error
        return Empty()

    await traffic.wrap(METHOD, proceed)(Exchange(REQUEST, typing.cast(Context, _Context())))


async def test_answered_call_counts_its_request_and_more() -> None:
    traffic = Traffic()
    await count(traffic=traffic)
    [(port, size)] = traffic.take().items()
    assert port == "41234"
    assert size > len(REQUEST)


async def test_failed_call_counts_like_an_answered_call() -> None:
    answered, failed = Traffic(), Traffic()
    await count(traffic=answered)
    with pytest.raises(ValueError, match="rejected"):
        await count(ValueError("rejected"), traffic=failed)
    assert failed.take() == answered.take()


async def test_cancelled_call_counts_only_its_request() -> None:
    traffic = Traffic()
    with pytest.raises(asyncio.CancelledError):
        await count(asyncio.CancelledError(), traffic=traffic)
    assert traffic.take() == {"41234": len(REQUEST)}


async def test_take_counts_each_call_once() -> None:
    traffic = Traffic()
    await count(traffic=traffic)
    assert traffic.take()
    assert traffic.take() == {}
