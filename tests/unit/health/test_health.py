"""Health: statuses derived from checks, status watches, and the shutdown."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace_health import Check, Health, HealthServer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Dependency:
    """A dependency that responds, fails or hangs."""

    def __init__(self) -> None:
        self.alive = True
        self.hangs = False

    async def ping(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if not self.alive:
            raise ConnectionError


class ServedHealth:
    def __init__(self) -> None:
        self.database = Dependency()
        self.cache = Dependency()
        self.health = Health(
            services=("headrace.v1.JobService",),
            checks=(
                Check(name="postgresql", ping=self.database.ping),
                Check(name="redis", ping=self.cache.ping, required=False),
            ),
            timeout=0.05,
        )
        self.server = HealthServer(address="127.0.0.1:0", health=self.health, reflection=True)

    async def status(self, service: str = "") -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await self.stub.Check(request, timeout=30)).status

    def watch(self, service: str = "") -> grpc.aio.UnaryStreamCall:
        return self.stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=20)


@pytest.fixture
async def served() -> AsyncIterator[ServedHealth]:
    served = ServedHealth()
    await served.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.server.port}") as channel:
        served.channel, served.stub = channel, health_pb2_grpc.HealthStub(channel)
        yield served
    await served.server.stop()


async def test_services_with_live_dependencies_are_serving(served: ServedHealth):
    assert await served.status() == SERVING
    assert await served.status("headrace.v1.JobService") == SERVING


async def test_services_are_not_serving_while_a_dependency_fails(served: ServedHealth):
    served.database.alive = False
    await served.health.run_once()
    assert await served.status() == NOT_SERVING
    assert await served.status("headrace.v1.JobService") == NOT_SERVING
    served.database.alive = True
    await served.health.run_once()
    assert await served.status() == SERVING


async def test_hanging_dependency_counts_as_failed(served: ServedHealth):
    served.database.hangs = True
    await served.health.run_once()
    assert await served.status() == NOT_SERVING


async def test_optional_dependency_affects_only_its_own_status(served: ServedHealth):
    served.cache.alive = False
    await served.health.run_once()
    assert await served.status() == SERVING
    assert await served.status("postgresql") == SERVING
    assert await served.status("redis") == NOT_SERVING


async def test_unknown_service_is_not_found(served: ServedHealth):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.status("unknown.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    stream = served.watch("unknown.Service")
    assert (await stream.read()).status == SERVICE_UNKNOWN
    stream.cancel()


async def test_list_contains_all_services_and_checks(served: ServedHealth):
    served.cache.alive = False
    await served.health.run_once()
    response = await served.stub.List(health_pb2.HealthListRequest())
    assert {name: each.status for name, each in response.statuses.items()} == {
        "": SERVING,
        "headrace.v1.JobService": SERVING,
        "postgresql": SERVING,
        "redis": NOT_SERVING,
    }


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x01\xff"], ids=["bytes", "invalid UTF-8"])
@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("grpc.health.v1.Health/Check", "unary_unary"),
        ("grpc.health.v1.Health/Watch", "unary_stream"),
        ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "stream_stream"),
    ],
    ids=["Check", "Watch", "reflection"],
)
async def test_malformed_request_is_an_invalid_argument(
    served: ServedHealth, method: str, kind: str, raw: bytes
):
    start_call = getattr(served.channel, kind)(f"/{method}")
    call = start_call(iter([raw])) if kind == "stream_stream" else start_call(raw)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", ["Check", "List"])
async def test_oversized_request_is_an_invalid_argument(served: ServedHealth, method: str):
    # Protobuf may parse zeros as a message without fields, so only the size check can reject them.
    call = served.channel.unary_unary(f"/grpc.health.v1.Health/{method}")(bytes(100_000))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the limit is 65,536" in (await call.details() or "")


async def test_watch_shows_every_change(served: ServedHealth):
    stream = served.watch()
    assert (await stream.read()).status == SERVING
    served.database.alive = False
    await served.health.run_once()
    assert (await stream.read()).status == NOT_SERVING
    served.database.alive = True
    await served.health.run_once()
    assert (await stream.read()).status == SERVING
    stream.cancel()


async def test_shutdown_sends_not_serving_and_ends_watches(served: ServedHealth):
    stream = served.watch()
    assert (await stream.read()).status == SERVING
    await served.server.enter_graceful_shutdown()
    assert (await stream.read()).status == NOT_SERVING
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE
    assert await served.status() == NOT_SERVING


async def test_check_after_a_shutdown_stays_not_serving(served: ServedHealth):
    await served.server.enter_graceful_shutdown()
    await served.health.run_once()
    assert await served.status() == NOT_SERVING


async def test_open_watch_does_not_delay_the_stop(served: ServedHealth):
    stream = served.watch()
    assert (await stream.read()).status == SERVING
    async with asyncio.timeout(30):
        await served.server.stop(grace=60)


async def test_checks_are_repeated():
    rounds = asyncio.Queue[None]()

    async def ping() -> None:
        rounds.put_nowait(None)

    health = Health(checks=(Check(name="postgresql", ping=ping),), interval=0.001)
    await health.start()
    async with asyncio.timeout(60):
        for _ in range(4):
            await rounds.get()
    await health.enter_graceful_shutdown()
    assert not health.serving


async def probe(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headrace_health", "probe", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode().strip()


async def test_probe_exits_with_0_only_if_serving(served: ServedHealth):
    address = f"127.0.0.1:{served.server.port}"
    assert await probe(address) == (0, "SERVING")
    assert await probe(address, "--service", "headrace.v1.JobService") == (0, "SERVING")
    assert await probe(address, "--service", "unknown.Service") == (1, "NOT_FOUND")
    served.database.alive = False
    await served.health.run_once()
    assert await probe(address) == (1, "NOT_SERVING")


async def test_probe_without_a_server_fails_in_time():
    async with asyncio.timeout(20):
        code, _ = await probe("127.0.0.1:1", "--timeout", "0.5")
    assert code == 1
