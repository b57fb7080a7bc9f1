"""`queue/NAME` in grpc.health.v1, which is SERVING while a live worker serves the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from headrace_core.domain.ids import WorkerId
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import remove_worker
from headrace_core.wake import Topic, WakeBus, WakeSubscription
from headrace_gateway.api.registrations import Registrations
from headrace_gateway.grpc.handlers import queue_health
from headrace_gateway.service import Gateway
from headrace_worker.service import WorkerService
from support.handlers import handlers
from support.jobs import set_column, submit
from support.listening import WAKE_UP_TIMEOUT_S, listening
from support.proxy import Proxy
from support.states import prepare_job
from support.until import until
from support.workers import drain, lapse, register

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

# The gateway reads workers every second, so watches report a change within two seconds. The rest is
# a margin for a busy machine.
DEADLINE_S = 60


@pytest.fixture
def health(channel: grpc.aio.Channel) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(channel)


async def status(health: health_pb2_grpc.HealthStub, service: str) -> int:
    return (await health.Check(health_pb2.HealthCheckRequest(service=service))).status


class QueueWatch:
    """A health watch of a queue."""

    def __init__(self, health: health_pb2_grpc.HealthStub, service: str) -> None:
        self.call = health.Watch(health_pb2.HealthCheckRequest(service=service))

    async def next(self) -> int:
        """Return the next status."""
        async with asyncio.timeout(DEADLINE_S):
            return (await self.call.read()).status


async def test_queue_without_a_worker_is_not_serving(health: health_pb2_grpc.HealthStub):
    assert await status(health, "queue/default") == NOT_SERVING


@pytest.mark.parametrize("name", ["queue/", "queue/No", "queue/a b", "queue/a/b", "queue", "fast"])
async def test_invalid_queue_name_is_unknown(health: health_pb2_grpc.HealthStub, name: str):
    with pytest.raises(grpc.aio.AioRpcError) as excinfo:
        await status(health, name)
    assert excinfo.value.code() is grpc.StatusCode.NOT_FOUND
    assert await QueueWatch(health, name).next() == SERVICE_UNKNOWN


async def test_queues_of_a_worker_are_serving(
    health: health_pb2_grpc.HealthStub, database: Database
):
    await register(database, queues=["fast", "slow"])
    assert await status(health, "queue/fast") == SERVING
    assert await status(health, "queue/slow") == SERVING
    assert await status(health, "queue/default") == NOT_SERVING


async def until_status(health: health_pb2_grpc.HealthStub, service: str, expected: int) -> None:
    """Wait until a service has a status."""

    async def has_status() -> bool:
        return await status(health, service) == expected

    await until(has_status)


async def test_unknown_queue_of_a_worker_is_not_serving(
    health: health_pb2_grpc.HealthStub, database: Database
):
    # The worker serves all queues, and its handler names one.
    await register(database, "test")
    assert await status(health, "queue/default") == SERVING
    assert await status(health, "queue/misspelled") == NOT_SERVING
    await submit(database, queue="misspelled")
    await until_status(health, "queue/misspelled", SERVING)


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.QUEUED])
async def test_queue_with_jobs_in_any_state_is_serving(
    health: health_pb2_grpc.HealthStub, database: Database, state: JobState
):
    prepared = await prepare_job(database, state)
    await set_column(database, prepared.job.id, "queue = 'mine'")
    await until_status(health, "queue/mine", SERVING)
    # A gateway remembers a known queue as long as it runs.
    await set_column(database, prepared.job.id, "queue = 'other'")
    await until_status(health, "queue/other", SERVING)
    assert await status(health, "queue/mine") == SERVING


async def test_queue_with_only_unserved_job_types_is_not_serving(
    health: health_pb2_grpc.HealthStub, database: Database
):
    await register(database, "test", queues=["fast"])
    assert await status(health, "queue/fast") == SERVING
    await submit(database, queue="fast", type="unknown")
    await until_status(health, "queue/fast", NOT_SERVING)
    # An unserved type of another tenant does not affect the queue.
    await submit(database, queue="fast", type="test")
    await until_status(health, "queue/fast", SERVING)


async def delete_worker(database: Database, worker_id: WorkerId) -> None:
    async with database.transaction() as connection:
        await remove_worker(connection, worker_id=worker_id)


@pytest.mark.parametrize("end", [drain, lapse, delete_worker])
async def test_watch_without_wake_up_follows_workers(
    health: health_pb2_grpc.HealthStub, database: Database, end
):
    fast, slow = QueueWatch(health, "queue/fast"), QueueWatch(health, "queue/slow")
    assert (await fast.next(), await slow.next()) == (NOT_SERVING, NOT_SERVING)
    worker_id = await register(database, queues=["fast"])
    assert await fast.next() == SERVING
    await end(database, worker_id)
    assert await fast.next() == NOT_SERVING
    # No worker and no job has named the other queue.
    await register(database, queues=["slow"])
    assert await slow.next() == SERVING


async def test_wake_up_refreshes_a_watch_early(settings: Settings, database: Database):
    bus = WakeBus(settings, database)
    await bus.start()
    async with listening(settings, database, Topic.WORKERS) as wake:
        queues = queue_health(registrations=Registrations(database=database), wake=wake)
        queues._max_age = WAKE_UP_TIMEOUT_S
        changed = asyncio.Event()
        queues.on_change(changed.set)
        queues.start()
        with queues.follow():
            assert not await queues.serving("queue/fast")
            changed.clear()
            await register(database, queues=["fast"])
            bus.publish(Topic.WORKERS)
            async with asyncio.timeout(WAKE_UP_TIMEOUT_S / 2):
                await changed.wait()
            assert await queues.serving("queue/fast")
        await queues.stop()
    await bus.stop()


async def test_watch_follows_a_real_worker(health: health_pb2_grpc.HealthStub, settings: Settings):
    watch = QueueWatch(health, "queue/default")
    assert await watch.next() == NOT_SERVING
    worker = WorkerService(settings, handlers())
    await worker.start()
    assert await watch.next() == SERVING
    stopping = asyncio.create_task(worker.stop())
    assert await watch.next() == NOT_SERVING
    await stopping


class CountingDatabase(Database):
    """A database that counts its statements."""

    statements = 0

    def statement(self) -> AbstractAsyncContextManager[Connection]:
        self.statements += 1
        return super().statement()


async def test_probes_share_one_query_per_second(settings: Settings):
    database = CountingDatabase(settings, application="test")
    wake = WakeSubscription()
    queues = queue_health(registrations=Registrations(database=database), wake=wake)
    clock = asyncio.get_running_loop().time
    started = clock()
    queues.start()
    with ExitStack() as watches:
        for _ in range(100):
            watches.enter_context(queues.follow())
        while database.statements < 4:
            for name in ("fast", "slow", "default"):
                await queues.serving(f"queue/{name}")
            await asyncio.sleep(0)
    # A probe may query just before a watch does.
    assert database.statements <= 2 * (1 + (clock() - started))
    await queues.stop()
    await database.close()


class TestOutages:
    """PostgreSQL behind a proxy that a test cuts."""

    @pytest.fixture
    async def postgres(self, database_url: str) -> AsyncIterator[Proxy]:
        proxy = Proxy(database_url)
        await proxy.start()
        yield proxy
        await proxy.cut()

    @pytest.fixture
    async def gateway(self, settings: Settings, postgres: Proxy) -> AsyncIterator[Gateway]:
        gateway = Gateway(
            settings.model_copy(
                update={"database_url": SecretStr(postgres.url), "database_timeout": 2.0}
            )
        )
        await gateway.start()
        yield gateway
        await gateway.stop()

    async def test_queue_without_postgresql_is_not_serving(
        self, postgres: Proxy, health: health_pb2_grpc.HealthStub, database: Database
    ):
        await register(database)
        watch = QueueWatch(health, "queue/default")
        assert await watch.next() == SERVING
        await postgres.cut()
        assert await watch.next() == NOT_SERVING
        assert await status(health, "queue/default") == NOT_SERVING
        await postgres.start()
        assert await watch.next() == SERVING


async def test_stop_ends_watches_as_not_serving(
    gateway: Gateway, health: health_pb2_grpc.HealthStub, database: Database
):
    await register(database)
    watch = QueueWatch(health, "queue/default")
    assert await watch.next() == SERVING
    await gateway.stop()
    assert await watch.next() == NOT_SERVING
    assert await watch.call.code() is grpc.StatusCode.UNAVAILABLE
