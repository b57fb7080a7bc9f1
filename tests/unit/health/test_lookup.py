"""Lookups: Check and Watch for names that cannot be listed in advance."""

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
    """A source of names that change, and that can fail or hang."""

    def __init__(self) -> None:
        self.names = {"open"}
        self.readings = 0
        self.alive = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.notified = asyncio.Event()

    async def read(self) -> frozenset[str]:
        self.readings += 1
        await self.gate.wait()
        if not self.alive:
            raise ConnectionError
        return frozenset(self.names)

    async def wait(self, _: float) -> None:
        """Wait until the test notifies; ignore the timeout."""
        await self.notified.wait()
        self.notified.clear()


class ServedLookup:
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
    """The maximum age of a reading in seconds: longer than the test, unless the test notifies."""
    return 3600.0


@pytest.fixture
async def served(max_age: float) -> AsyncIterator[ServedLookup]:
    served = ServedLookup(max_age=max_age)
    await served.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.server.port}") as channel:
        served.stub = health_pb2_grpc.HealthStub(channel)
        yield served
    await served.server.stop()


async def test_name_is_serving_while_it_is_found(served: ServedLookup):
    assert await served.status("door/open") == SERVING
    assert await served.status("door/shut") == NOT_SERVING


@pytest.mark.parametrize("name", ["door/", "door/7", "doors/open", "door/open/open"])
async def test_malformed_name_is_unknown(served: ServedLookup, name: str):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.status(name)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    stream = served.watch(name)
    assert (await stream.read()).status == SERVICE_UNKNOWN
    stream.cancel()
    assert served.registry.readings == 0


async def test_fixed_name_takes_precedence_over_a_lookup(served: ServedLookup):
    served.registry.names.clear()
    assert await served.status("door/fixed") == SERVING
    assert served.registry.readings == 0


async def test_probes_of_any_name_share_a_valid_reading(served: ServedLookup):
    for name in ("door/open", "door/shut", "door/open"):
        await served.status(name)
    assert served.registry.readings == 1


async def test_concurrent_probes_share_one_reading(served: ServedLookup):
    served.registry.gate.clear()
    probes = [asyncio.ensure_future(served.status("door/open")) for _ in range(20)]
    cancelled_probe = served.stub.Check(health_pb2.HealthCheckRequest(service="door/open"))
    while not served.registry.readings:
        await asyncio.sleep(0)
    # A cancelled probe does not cancel the shared reading.
    cancelled_probe.cancel()
    served.registry.gate.set()
    assert set(await asyncio.gather(*probes)) == {SERVING}
    assert served.registry.readings == 1


class TestWithoutValidReading:
    @pytest.fixture
    def max_age(self) -> float:
        return 0.0

    async def test_probe_without_valid_reading_reads_again(self, served: ServedLookup):
        assert await served.status("door/open") == SERVING
        served.registry.names.clear()
        assert await served.status("door/open") == NOT_SERVING
        assert served.registry.readings == 2

    async def test_name_is_not_serving_while_the_reading_fails(self, served: ServedLookup):
        assert await served.status("door/open") == SERVING
        served.registry.alive = False
        assert await served.status("door/open") == NOT_SERVING
        served.registry.alive = True
        assert await served.status("door/open") == SERVING


async def test_hanging_reading_counts_as_failed():
    registry = Registry()
    registry.gate.clear()
    lookup = Lookup(prefix="door/", valid=str.isalpha, read=registry.read, timeout=0.01)
    assert not await lookup.serving("door/open")


async def test_watch_shows_changed_names_and_failed_readings(served: ServedLookup):
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
        served.registry.notified.set()
        assert (await stream.read()).status == status
    stream.cancel()


async def test_watches_share_one_reading(served: ServedLookup):
    streams = [served.watch(name) for name in ("door/open", "door/shut") for _ in range(10)]
    for stream in streams:
        await stream.read()
    assert served.registry.readings == 1
    served.registry.names = {"shut"}
    served.registry.notified.set()
    for stream in streams:
        await stream.read()
    assert served.registry.readings == 2
    for stream in streams:
        stream.cancel()


async def test_names_are_not_read_without_a_watch(served: ServedLookup):
    stream = served.watch("door/open")
    await stream.read()
    stream.cancel()
    while served.lookup._followers:
        await asyncio.sleep(0.001)
    # The lookup was waiting when the last watch ended, so it reads once more before it stops.
    served.registry.notified.set()
    while served.registry.readings < 2:
        await asyncio.sleep(0.001)
    served.registry.notified.set()
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert served.registry.notified.is_set()
    assert served.registry.readings == 2


async def test_notification_during_a_reading_causes_another_one(served: ServedLookup):
    served.registry.gate.clear()
    first_probe = asyncio.create_task(served.lookup.serving("door/late"))
    while not served.registry.readings:
        await asyncio.sleep(0)
    late = asyncio.create_task(served.lookup.run_once())
    await asyncio.sleep(0)
    served.registry.gate.set()
    await asyncio.gather(first_probe, late)
    assert served.registry.readings == 2


async def test_shutdown_sends_not_serving_and_ends_watches(served: ServedLookup):
    stream = served.watch("door/open")
    assert (await stream.read()).status == SERVING
    await served.server.enter_graceful_shutdown()
    assert (await stream.read()).status == NOT_SERVING
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE
    assert await served.status("door/open") == NOT_SERVING
    assert served.registry.readings == 1


async def test_shutdown_does_not_wait_for_a_reading(served: ServedLookup):
    served.registry.gate.clear()
    probe = asyncio.ensure_future(served.status("door/open"))
    while not served.registry.readings:
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await served.server.enter_graceful_shutdown()
        assert await probe == NOT_SERVING
