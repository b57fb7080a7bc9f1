"""Links around servicers without a database, in a real gRPC server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from headrace.v1.handler_service_pb2 import DESCRIPTOR, ListHandlersRequest, ListHandlersResponse
from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace_core.runtime.settings import Settings
from headrace_gateway.access.quotas import TenantQuotas
from headrace_gateway.calls.authorize import Sessions
from headrace_gateway.calls.call import Call
from headrace_gateway.calls.chain import Chain, ChainError
from headrace_gateway.calls.drain import Drain
from headrace_gateway.calls.errors import Failures
from headrace_gateway.calls.meter import Meter
from headrace_gateway.calls.order import FOREIGN_LINKS, build_chain
from headrace_gateway.calls.services import Service, add_services
from headrace_gateway.calls.traffic import Traffic
from headrace_gateway.streams import Gauges
from headrace_health import HealthServicer, keep_completion_queue, reflections
from support.gateway import rpc_error

HANDLERS = DESCRIPTOR.services_by_name["HandlerService"]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REQUEST_ID = "x-request-id"


class Servicer:
    """Records the Call of each request; raises an error if the page size is 13."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def ListHandlers(  # noqa: N802 - the contract's name
        self, request: ListHandlersRequest, call: Call
    ) -> ListHandlersResponse:
        self.calls.append(call)
        if request.page_size == 13:
            raise ZeroDivisionError
        return ListHandlersResponse()


class BrokenHealth(HealthServicer):
    """Raises an error in each `List` call."""

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        raise ZeroDivisionError


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
def drain() -> Drain:
    return Drain()


@pytest.fixture
def chain(drain: Drain) -> Chain:
    return build_chain(
        Settings(),
        drain=drain,
        counts=Gauges(),
        authenticator=None,
        sessions=Sessions(),
        limiter=TenantQuotas(),
        traffic=Traffic(),
        meter=Meter(),
        failures=Failures(),
    )


@pytest.fixture
async def server(servicer: Servicer, chain: Chain) -> grpc.aio.Server:
    keep_completion_queue()
    server = grpc.aio.server()
    foreign = chain.only(*FOREIGN_LINKS)
    reflection = reflections([HANDLERS.full_name])[0]
    add_services(
        server,
        [
            Service(descriptor=HANDLERS, servicer=servicer, chain=chain),
            Service(descriptor=HEALTH, servicer=BrokenHealth(), chain=foreign, foreign=True),
            Service(
                descriptor=reflection.descriptor,
                servicer=reflection.servicer,
                chain=foreign,
                foreign=True,
            ),
        ],
    )
    return server


@pytest.fixture
async def channel(server: grpc.aio.Server) -> AsyncIterator[grpc.aio.Channel]:
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def test_servicer_receives_the_call(channel: grpc.aio.Channel, servicer: Servicer) -> None:
    before = time.monotonic()
    await HandlerServiceStub(channel).ListHandlers(
        ListHandlersRequest(), timeout=100, metadata=((REQUEST_ID, "trace-17"), ("x-bin", b"\0"))
    )
    [call] = servicer.calls
    assert (call.principal.name, call.tenant) == ("anonymous", "default")
    assert call.correlation_id == "trace-17"
    assert call.deadline is not None
    # gRPC rounds deadlines up.
    assert before < call.deadline < time.monotonic() + 105
    assert (REQUEST_ID, "trace-17") in call.metadata
    assert ("x-bin", b"\0") in call.metadata


async def test_call_without_deadline_has_no_time_remaining(
    channel: grpc.aio.Channel, servicer: Servicer
) -> None:
    await HandlerServiceStub(channel).ListHandlers(ListHandlersRequest())
    [call] = servicer.calls
    assert (call.deadline, call.time_remaining()) == (None, None)


async def test_drain_rejects_calls_except_health(
    channel: grpc.aio.Channel, servicer: Servicer, drain: Drain
) -> None:
    await drain.drain()
    error = await rpc_error(HandlerServiceStub(channel).ListHandlers(ListHandlersRequest()))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert servicer.calls == []
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


async def test_drain_rejects_all_calls_that_the_transport_has_received(
    channel: grpc.aio.Channel, server: grpc.aio.Server, drain: Drain
) -> None:
    handlers, health = HandlerServiceStub(channel), health_pb2_grpc.HealthStub(channel)
    await channel.channel_ready()
    calls = [
        asyncio.ensure_future(handlers.ListHandlers(ListHandlersRequest())) for _ in range(200)
    ]
    # Calls of one connection arrive in order, so the gateway has received all calls.
    await health.Check(health_pb2.HealthCheckRequest())
    await drain.drain()
    await server.stop(60)
    codes = {
        result.code()
        for result in await asyncio.gather(*calls, return_exceptions=True)
        if isinstance(result, grpc.aio.AioRpcError)
    }
    assert codes <= {grpc.StatusCode.UNAVAILABLE}


async def test_servicer_bug_returns_internal_with_the_request_id(
    channel: grpc.aio.Channel,
) -> None:
    error = await rpc_error(
        HandlerServiceStub(channel).ListHandlers(ListHandlersRequest(page_size=13))
    )
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert error.trailing[REQUEST_ID] == error.metadata["request_id"]


async def test_foreign_servicer_bug_returns_a_request_id(channel: grpc.aio.Channel) -> None:
    call = health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())
    error = await rpc_error(call)
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert UUID(error.metadata["request_id"])


async def test_health_request_above_its_limit_is_invalid(channel: grpc.aio.Channel) -> None:
    request = health_pb2.HealthCheckRequest(service="x" * 70_000)
    error = await rpc_error(health_pb2_grpc.HealthStub(channel).Check(request))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "LIMIT_EXCEEDED")
    assert error.metadata["maximum"] == "65536"


async def test_reflection_checks_each_request_of_a_stream(channel: grpc.aio.Channel) -> None:
    good = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(
        iter([good, b"\xff"])
    )
    response = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
    assert HANDLERS.full_name in {s.name for s in response.list_services_response.service}
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_reflection_stream_ends_after_its_requests(channel: grpc.aio.Channel) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
    responses = [response async for response in call]
    assert len(responses) == 1
    assert await call.code() is grpc.StatusCode.OK


async def test_servicer_without_a_method_is_rejected(chain: Chain) -> None:
    with pytest.raises(ChainError, match="HandlerService has no method 'ListHandlers'"):
        add_services(
            grpc.aio.server(), [Service(descriptor=HANDLERS, servicer=object(), chain=chain)]
        )
