"""Names that are looked up: Check and Watch for what cannot be listed in advance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace_health import Health, HealthServer, Lookup

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Registry:
    """What is read: names that come and go, gone itself or hanging at times."""

    def __init__(self) -> None:
        self.names = {"open"}
        self.readings = 0
        self.alive = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.rung = asyncio.Event()

    async def read(self) -> frozenset[str]:
        self.readings += 1
        await self.gate.wait()
        if not self.alive:
            raise ConnectionError
        return frozenset(self.names)

    async def wait(self, _: float) -> None:
        """Only the test rings: here no time passes."""
        await self.rung.wait()
        self.rung.clear()


class Served:
    def __init__(self, *, max_age: float, timeout: float = 5.0) -> None:
        self.registry = Registry()
        self.lookup = Lookup(
            prefix="door/",
            valid=str.isalpha,
            read=self.registry.read,
            wait=self.registry.wait,
            max_age=max_age,
            timeout=timeout,
        )
        self.health = Health(services=("door/fixed",), lookups=[self.lookup], interval=3600)
        self.server = HealthServer(address="127.0.0.1:0", health=self.health)

    async def status(self, service: str) -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await self.stub.Check(request, timeout=10)).status

    def watch(self, service: str) -> grpc.aio.UnaryStreamCall:
        return self.stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=20)


@pytest.fixture
def max_age() -> float:
    """A reading holds for the whole test, unless somebody rings."""
    return 3600.0


@pytest.fixture
async def served(max_age: float) -> AsyncIterator[Served]:
    served = Served(max_age=max_age)
    await served.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.server.port}") as channel:
        served.stub = health_pb2_grpc.HealthStub(channel)
        yield served
    await served.server.stop()


async def test_a_name_is_serving_while_it_is_found(served: Served):
    assert await served.status("door/open") == SERVING
    assert await served.status("door/shut") == NOT_SERVING


@pytest.mark.parametrize("name", ["door/", "door/7", "doors/open", "door/open/open"])
async def test_what_cannot_be_a_name_is_unknown(served: Served, name: str):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.status(name)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    stream = served.watch(name)
    assert (await stream.read()).status == SERVICE_UNKNOWN
    stream.cancel()
    assert served.registry.readings == 0


async def test_a_fixed_name_goes_first(served: Served):
    served.registry.names.clear()
    assert await served.status("door/fixed") == SERVING
    assert served.registry.readings == 0


async def test_probes_of_any_name_share_a_reading_while_it_holds(served: Served):
    for name in ("door/open", "door/shut", "door/open"):
        await served.status(name)
    assert served.registry.readings == 1


async def test_probes_at_the_same_time_share_the_reading_that_is_under_way(served: Served):
    served.registry.gate.clear()
    probes = [asyncio.ensure_future(served.status("door/open")) for _ in range(20)]
    hasty = served.stub.Check(health_pb2.HealthCheckRequest(service="door/open"))
    while not served.registry.readings:
        await asyncio.sleep(0)
    # One that does not wait for it leaves it to the others.
    hasty.cancel()
    served.registry.gate.set()
    assert set(await asyncio.gather(*probes)) == {SERVING}
    assert served.registry.readings == 1


class TestWhileNoReadingHolds:
    @pytest.fixture
    def max_age(self) -> float:
        return 0.0

    async def test_a_probe_reads_again(self, served: Served):
        assert await served.status("door/open") == SERVING
        served.registry.names.clear()
        assert await served.status("door/open") == NOT_SERVING
        assert served.registry.readings == 2

    async def test_what_cannot_be_read_is_not_serving_and_is_serving_again_after(
        self, served: Served
    ):
        assert await served.status("door/open") == SERVING
        served.registry.alive = False
        assert await served.status("door/open") == NOT_SERVING
        served.registry.alive = True
        assert await served.status("door/open") == SERVING


async def test_a_reading_that_hangs_has_failed():
    registry = Registry()
    registry.gate.clear()
    lookup = Lookup(prefix="door/", valid=str.isalpha, read=registry.read, timeout=0.01)
    assert not await lookup.serving("door/open")


async def test_a_watch_shows_what_comes_and_goes_and_what_fails(served: Served):
    stream = served.watch("door/open")
    assert (await stream.read()).status == SERVING
    for change, status in (
        ({"names": set()}, NOT_SERVING),
        ({"names": {"open", "shut"}}, SERVING),
        ({"alive": False}, NOT_SERVING),
        ({"alive": True}, SERVING),
    ):
        for name, value in change.items():
            setattr(served.registry, name, value)
        served.registry.rung.set()
        assert (await stream.read()).status == status
    stream.cancel()


async def test_all_watches_are_fed_by_one_reading(served: Served):
    streams = [served.watch(name) for name in ("door/open", "door/shut") for _ in range(10)]
    for stream in streams:
        await stream.read()
    assert served.registry.readings == 1
    served.registry.names = {"shut"}
    served.registry.rung.set()
    for stream in streams:
        await stream.read()
    assert served.registry.readings == 2
    for stream in streams:
        stream.cancel()


async def test_nothing_is_read_while_nobody_watches(served: Served):
    stream = served.watch("door/open")
    await stream.read()
    stream.cancel()
    while served.lookup._followers:
        await asyncio.sleep(0.001)
    # It waited when the last watch ended: once more, and then it stands still.
    served.registry.rung.set()
    while served.registry.readings < 2:
        await asyncio.sleep(0.001)
    served.registry.rung.set()
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert served.registry.rung.is_set()
    assert served.registry.readings == 2


async def test_a_reading_that_is_under_way_when_it_rings_is_not_enough(served: Served):
    served.registry.gate.clear()
    early = asyncio.create_task(served.lookup.serving("door/late"))
    while not served.registry.readings:
        await asyncio.sleep(0)
    late = asyncio.create_task(served.lookup.run_once())
    await asyncio.sleep(0)
    served.registry.gate.set()
    await asyncio.gather(early, late)
    assert served.registry.readings == 2


async def test_a_shutdown_tells_the_watchers_and_ends_them(served: Served):
    stream = served.watch("door/open")
    assert (await stream.read()).status == SERVING
    await served.server.enter_graceful_shutdown()
    assert (await stream.read()).status == NOT_SERVING
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE
    assert await served.status("door/open") == NOT_SERVING
    assert served.registry.readings == 1


async def test_a_shutdown_waits_for_no_reading(served: Served):
    served.registry.gate.clear()
    probe = asyncio.ensure_future(served.status("door/open"))
    while not served.registry.readings:
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await served.server.enter_graceful_shutdown()
        assert await probe == NOT_SERVING
