"""The gateway as a server: health, reflection, dependency outages, start and stop."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import SecretStr
from sqlalchemy import text

from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    CancelJobRequest,
    GetStatsRequest,
    SubmitAndWatchRequest,
    SubmitJobRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support.gateway import rpc_error
from support.proxy import Proxy
from support.read_only import set_read_only
from support.settings import environment_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
SERVICES = ("headrace.v1.JobService", "headrace.v1.HandlerService")
SUBMIT = SubmitJobRequest(job=JobSpec(type="email"))


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """A database for a test that changes its settings and schema."""
    return own_database_url


@pytest.fixture
def health(channel: grpc.aio.Channel) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(channel)


async def status(health: health_pb2_grpc.HealthStub, service: str = "") -> int:
    return (await health.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_all_services_are_serving(health: health_pb2_grpc.HealthStub):
    for service in ("", *SERVICES):
        assert await status(health, service) == SERVING


async def reflected_services(channel: grpc.aio.Channel) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(iter([request]))
    response = await call.read()
    return [service.name for service in response.list_services_response.service]


async def test_reflection_lists_the_services(channel: grpc.aio.Channel):
    assert set(SERVICES) < set(await reflected_services(channel))


async def test_reflection_v1_describes_every_service(channel: grpc.aio.Channel):
    """Call the service like a tool that supports only v1 and knows no message types in advance."""
    path = f"/{REFLECTION_V1}/ServerReflectionInfo"

    async def ask(request: Message) -> reflection_pb2.ServerReflectionResponse:
        call = channel.stream_stream(path)(iter([request.SerializeToString()]))
        return reflection_pb2.ServerReflectionResponse.FromString(await call.read())

    listed = await ask(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in listed.list_services_response.service}
    assert {*SERVICES, REFLECTION_V1, "grpc.reflection.v1alpha.ServerReflection"} <= names
    symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol=REFLECTION_V1)
    pool = descriptor_pool.DescriptorPool()
    for raw in (await ask(symbol)).file_descriptor_response.file_descriptor_proto:
        pool.AddSerializedFile(raw)
    (method,) = pool.FindServiceByName(REFLECTION_V1).methods
    assert method.input_type.full_name == "grpc.reflection.v1.ServerReflectionRequest"
    request = message_factory.GetMessageClass(method.input_type)(
        file_containing_symbol="headrace.v1.JobService"
    )
    response_class = message_factory.GetMessageClass(method.output_type)
    response = response_class.FromString((await ask(request)).SerializeToString())
    assert response.original_request == request
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in response.file_descriptor_response.file_descriptor_proto
    ]
    assert "headrace/v1/job_service.proto" in {file.name for file in files}


async def test_reflection_v1_rejects_unknown_requests(channel: grpc.aio.Channel):
    call = channel.stream_stream(f"/{REFLECTION_V1}/ServerReflectionInfo")(iter([b"\xff"]))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


class TestWithoutReflection:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"reflection": False})

    async def test_reflection_is_served_only_when_enabled(self, channel: grpc.aio.Channel):
        with pytest.raises(grpc.aio.AioRpcError) as excinfo:
            await reflected_services(channel)
        assert excinfo.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_submit_and_watch_sends_the_job_then_its_events(jobs: JobServiceStub):
    call = jobs.SubmitAndWatch(SubmitAndWatchRequest(job=JobSpec(type="email"), request_id="r"))
    job = (await call.read()).job
    assert job.id
    first = (await call.read()).events
    assert [event.seq for event in first] == [1]
    await jobs.CancelJob(CancelJobRequest(job_id=job.id))
    assert [event.seq for event in (await call.read()).events] == [2]
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK

    # The same request_id returns the same job. The stream starts after the received events.
    repeated = jobs.SubmitAndWatch(
        SubmitAndWatchRequest(job=JobSpec(type="email"), request_id="r", after_seq=1)
    )
    responses = [response async for response in repeated]
    assert responses[0].job.id == job.id
    assert [event.seq for response in responses[1:] for event in response.events] == [2]


class TestOutages:
    """PostgreSQL and Redis behind proxies that a test cuts."""

    @pytest.fixture
    async def postgres(self, database_url: str) -> AsyncIterator[Proxy]:
        proxy = Proxy(database_url)
        await proxy.start()
        yield proxy
        await proxy.cut()

    @pytest.fixture
    async def redis(self, redis_url: str) -> AsyncIterator[Proxy]:
        proxy = Proxy(redis_url)
        await proxy.start()
        yield proxy
        await proxy.cut()

    @pytest.fixture
    async def settings(self, settings: Settings, postgres: Proxy, redis: Proxy) -> Settings:
        return settings.model_copy(
            update={
                "database_url": SecretStr(postgres.url),
                "redis_url": SecretStr(redis.url),
                "database_timeout": 2.0,
            }
        )

    async def test_calls_without_postgresql_are_unavailable(
        self, postgres: Proxy, jobs: JobServiceStub, health: health_pb2_grpc.HealthStub
    ):
        stream = health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[0]))
        assert (await stream.read()).status == SERVING
        await postgres.cut()
        for call in (jobs.SubmitJob(SUBMIT), jobs.GetStats(GetStatsRequest())):
            error = await rpc_error(call)
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
            assert error.metadata == {"dependency": "postgresql"}
            assert error.details["RetryInfo"] == {"retryDelay": "1s"}
            assert error.message == "postgresql is not available; try again"
        async with asyncio.timeout(20):
            assert (await stream.read()).status == NOT_SERVING
            assert await status(health) == NOT_SERVING
            await postgres.start()
            assert (await stream.read()).status == SERVING
        await jobs.SubmitJob(SUBMIT)
        stream.cancel()

    async def test_read_only_database_is_not_serving(
        self,
        settings: Settings,
        jobs: JobServiceStub,
        health: health_pb2_grpc.HealthStub,
    ):
        stream = health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[0]))
        assert (await stream.read()).status == SERVING
        await set_read_only(settings, read_only=True)
        async with asyncio.timeout(20):
            assert (await stream.read()).status == NOT_SERVING
        error = await rpc_error(jobs.SubmitJob(SUBMIT))
        assert error.metadata == {"dependency": "postgresql"}
        # Jobs are still readable.
        await jobs.GetStats(GetStatsRequest())
        # The sessions that were opened read-only stay open.
        await set_read_only(settings, read_only=False, end_sessions=False)
        async with asyncio.timeout(20):
            assert (await stream.read()).status == SERVING
        await jobs.SubmitJob(SUBMIT)
        stream.cancel()

    async def test_gateway_without_redis_serves_every_call(
        self, redis: Proxy, jobs: JobServiceStub, health: health_pb2_grpc.HealthStub
    ):
        stream = health.Watch(health_pb2.HealthCheckRequest(service="redis"))
        assert (await stream.read()).status == SERVING
        await redis.cut()
        await jobs.SubmitJob(SUBMIT)
        async with asyncio.timeout(20):
            assert (await stream.read()).status == NOT_SERVING
        assert await status(health) == SERVING
        await jobs.SubmitJob(SUBMIT)
        stream.cancel()

    async def test_gateway_waits_for_postgresql_at_its_start(
        self, postgres: Proxy, settings: Settings
    ):
        await postgres.cut()
        gateway = Gateway(settings)
        starting = asyncio.create_task(gateway.start())
        await asyncio.wait([starting], timeout=0.1)
        assert not starting.done()
        await postgres.start()
        async with asyncio.timeout(20):
            await starting
        await gateway.stop()


async def test_stop_ends_streams_and_completes_open_calls(
    gateway: Gateway, jobs: JobServiceStub, health: health_pb2_grpc.HealthStub
):
    health_stream = health.Watch(health_pb2.HealthCheckRequest())
    assert (await health_stream.read()).status == SERVING
    stream = jobs.SubmitAndWatch(SubmitAndWatchRequest(job=JobSpec(type="email")))
    assert (await stream.read()).job.id
    assert (await stream.read()).events
    calls = [asyncio.ensure_future(jobs.SubmitJob(SUBMIT)) for _ in range(50)]
    # Calls of one connection arrive in order, so the gateway has received all submits.
    await health.Check(health_pb2.HealthCheckRequest())
    async with asyncio.timeout(60):
        await gateway.stop()
        results = await asyncio.gather(*calls, return_exceptions=True)
        # Each submit was either stored, or rejected with a status that clients retry at another
        # gateway.
        for result in results:
            if isinstance(result, grpc.aio.AioRpcError):
                assert result.code() is grpc.StatusCode.UNAVAILABLE
            else:
                assert result.job.id
        assert (await health_stream.read()).status == NOT_SERVING
        assert await health_stream.code() is grpc.StatusCode.UNAVAILABLE
        error = await rpc_error(stream.read())
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


async def test_second_stop_does_nothing(settings: Settings):
    await Gateway(settings).stop()
    gateway = Gateway(settings)
    await gateway.start()
    await gateway.stop()
    await gateway.stop()


async def test_port_in_use_ends_the_start(gateway: Gateway, settings: Settings):
    port_in_use = settings.model_copy(update={"gateway_address": f"127.0.0.1:{gateway.port}"})
    with pytest.raises(RuntimeError, match=str(gateway.port)):
        await Gateway(port_in_use).start()


class GatewayProcess:
    """A gateway process that logs in JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        """Read the log up to an event."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while not self.log or self.log[-1]["event"] != event:
                self.log.append(json.loads(await self.process.stderr.readline()))
        return self.log[-1]

    async def end(self, number: signal.Signals) -> tuple[int | None, bytes]:
        """End the process; return its exit code and its stdout."""
        async with asyncio.timeout(30):
            self.process.send_signal(number)
            output, rest = await self.process.communicate()
        self.log += [json.loads(line) for line in rest.splitlines()]
        return self.process.returncode, output


@pytest.fixture
async def process(settings: Settings) -> AsyncIterator[GatewayProcess]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "headrace_gateway",
        env=environment_of(settings, HEADRACE_LOG_FORMAT="json", HEADRACE_LOG_LEVEL="debug"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    yield GatewayProcess(process)
    if process.returncode is None:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_process_logs_its_address_and_ends_cleanly(
    process: GatewayProcess, number: signal.Signals
):
    started = await process.until("gateway_started")
    assert started["service"] == "gateway"
    spec = JobSpec(type="email", payload=Data(json=b'"secret words"'), labels={"a": "secret words"})
    async with grpc.aio.insecure_channel(started["address"]) as channel:
        call = JobServiceStub(channel).SubmitJob(
            SubmitJobRequest(job=spec), metadata=(("x-request-id", "trace-17"),)
        )
        job = (await call).job
    code, output = await process.end(number)
    assert code == 0
    # The process writes only to its log, and its log contains no payload.
    assert output == b""
    assert "secret words" not in json.dumps(process.log)
    events = [line["event"] for line in process.log]
    assert events[-2:] == ["gateway_stopping", "gateway_stopped"]
    (submitted,) = [line for line in process.log if line["event"] == "job_submitted"]
    assert submitted["job_id"] == job.id
    assert submitted["correlation_id"] == "trace-17"
    assert (submitted["type"], submitted["queue"]) == ("email", "default")


async def test_internal_error_is_logged_without_the_payload(
    process: GatewayProcess, database: Database
):
    started = await process.until("gateway_started")
    async with database.transaction() as conn:
        await conn.execute(text("ALTER TABLE jobs ADD CHECK (payload::text NOT LIKE '%breaks%')"))
    async with grpc.aio.insecure_channel(started["address"]) as channel:
        jobs = JobServiceStub(channel)
        spec = JobSpec(type="email", payload=Data(json=b'"secret words: this breaks it"'))
        calls = [
            jobs.SubmitJob(SubmitJobRequest(job=spec), metadata=(("x-request-id", "trace-17"),)),
            # Submits in the same group commit are stored.
            *(jobs.SubmitJob(SUBMIT) for _ in range(20)),
        ]
        error, *others = await asyncio.gather(rpc_error(calls[0]), *calls[1:])
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert error.metadata == {"request_id": "trace-17"}
    assert "constraint" not in error.message
    assert len({response.job.id for response in others}) == 20
    await process.end(signal.SIGTERM)
    failures = [line for line in process.log if line["event"] == "call_failed"]
    assert [line["correlation_id"] for line in failures] == ["trace-17"]
    log = json.dumps(process.log)
    assert "submit_jobs" in log
    assert "secret words" not in log
