"""Rules for every call: request ids, sizes, undecodable requests, deadlines."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf import struct_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    BatchSubmitJobsRequest,
    GetJobRequest,
    GetStatsRequest,
    SubmitAndWatchRequest,
    SubmitJobRequest,
    WatchJobRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from support.gateway import read_error, rpc_error

REQUEST_ID = "x-request-id"
METHOD_PREFIX = "/headrace.v1.JobService/"


async def test_request_id_is_returned_in_metadata(jobs: JobServiceStub):
    call = jobs.GetStats(GetStatsRequest(), metadata=((REQUEST_ID, "trace 17"),))
    await call
    assert dict(await call.trailing_metadata())[REQUEST_ID] == "trace 17"


async def test_call_without_request_id_receives_one(jobs: JobServiceStub):
    seen = set()
    for _ in range(3):
        call = jobs.GetStats(GetStatsRequest())
        await call
        seen.add(UUID(dict(await call.trailing_metadata())[REQUEST_ID]))
    assert len(seen) == 3


async def test_invalid_request_id_is_replaced(jobs: JobServiceStub):
    for request_id in ("", "x" * 129):
        call = jobs.GetStats(GetStatsRequest(), metadata=((REQUEST_ID, request_id),))
        await call
        assert UUID(dict(await call.trailing_metadata())[REQUEST_ID])


async def test_error_returns_the_request_id(jobs: JobServiceStub):
    call = jobs.GetJob(GetJobRequest(), metadata=((REQUEST_ID, "trace-17"),))
    assert (await rpc_error(call)).trailing[REQUEST_ID] == "trace-17"


async def test_stream_returns_request_id_in_initial_metadata(jobs: JobServiceStub):
    call = jobs.SubmitAndWatch(
        SubmitAndWatchRequest(job=JobSpec(type="email")), metadata=((REQUEST_ID, "trace-17"),)
    )
    assert dict(await call.initial_metadata())[REQUEST_ID] == "trace-17"
    call.cancel()


async def raw_call(channel: grpc.aio.Channel, method: str, raw: bytes) -> bytes:
    return await channel.unary_unary(METHOD_PREFIX + method)(raw)


UNDECODABLE_REQUESTS = {
    "tag": b"\xff",
    "length": b"\x0a\xff\xff\xff\xff\x0f",
    "truncated": b"\x0a\x05ab",
    "utf-8": b"\x0a\x02\xff\xfe",
}


async def test_undecodable_request_is_invalid(channel: grpc.aio.Channel):
    for method in ("GetJob", "CancelJob", "RetryJob"):
        for raw in UNDECODABLE_REQUESTS.values():
            error = await rpc_error(raw_call(channel, method, raw))
            assert error.code is grpc.StatusCode.INVALID_ARGUMENT
            assert error.reason == "INVALID_ARGUMENT"
            assert f"headrace.v1.{method}Request" in error.message


async def test_undecodable_request_of_a_stream_is_invalid(channel: grpc.aio.Channel):
    call = channel.unary_stream(METHOD_PREFIX + "WatchJob")(b"\xff")
    with pytest.raises(grpc.aio.AioRpcError) as excinfo:
        await call.read()
    assert read_error(excinfo.value).reason == "INVALID_ARGUMENT"


def _length_delimited(number: int, content: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    size = len(content)
    encoded = bytearray([number << 3 | 2])
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    return bytes(encoded) + bytes([size]) + content


async def test_unknown_method_is_unimplemented(channel: grpc.aio.Channel):
    with pytest.raises(grpc.aio.AioRpcError) as excinfo:
        await raw_call(channel, "Nope", b"")
    assert excinfo.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_call_ends_at_its_deadline(jobs: JobServiceStub):
    stream = jobs.WatchJob(
        WatchJobRequest(
            job_id=(await jobs.SubmitJob(SubmitJobRequest(job=JobSpec(type="email")))).job.id
        ),
        timeout=0.2,
    )
    with pytest.raises(grpc.aio.AioRpcError) as excinfo:
        async for _ in stream:
            pass
    assert excinfo.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


class TestSizes:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_request_bytes": 10_000})

    async def test_oversized_request_names_its_limit(self, jobs: JobServiceStub):
        specs = [JobSpec(type="email", payload=Data(json=json.dumps("x" * 100).encode()))] * 200
        request = BatchSubmitJobsRequest(jobs=specs)
        error = await rpc_error(jobs.BatchSubmitJobs(request))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.reason == "LIMIT_EXCEEDED"
        assert error.metadata == {
            "limit": "HEADRACE_MAX_REQUEST_BYTES",
            "maximum": "10000",
            "actual": str(request.ByteSize()),
        }

    async def test_oversized_stream_request_names_its_limit(self, jobs: JobServiceStub):
        payload = Data(json=json.dumps("x" * 20_000).encode())
        call = jobs.SubmitAndWatch(
            SubmitAndWatchRequest(job=JobSpec(type="email", payload=payload))
        )
        assert (await rpc_error(call.read())).metadata["limit"] == "HEADRACE_MAX_REQUEST_BYTES"

    async def test_request_far_beyond_its_limit_is_discarded(self, jobs: JobServiceStub):
        payload = Data(json=json.dumps("x" * 3_000_000).encode())
        with pytest.raises(grpc.aio.AioRpcError) as excinfo:
            await jobs.SubmitJob(SubmitJobRequest(job=JobSpec(type="email", payload=payload)))
        assert excinfo.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        # The connection is still usable.
        await jobs.GetStats(GetStatsRequest())


@pytest.mark.parametrize(
    "metadata",
    [[("x-junk-bin", b"j" * 17_000)], [(f"x-{n}", "y" * 50) for n in range(300)]],
    ids=["large", "many"],
)
async def test_metadata_above_its_limit_is_invalid(
    jobs: JobServiceStub, metadata: list[tuple[str, str | bytes]]
):
    stats = jobs.GetStats(GetStatsRequest(), metadata=metadata)
    watch = jobs.WatchJobs(WatchJobsRequest(), metadata=metadata)
    for call in (stats, watch.read()):
        error = await rpc_error(call)
        assert (error.code, error.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "LIMIT_EXCEEDED",
        )
        assert set(error.violations) == {"metadata"}
        assert error.metadata["maximum"] == "16384"
        assert int(error.metadata["actual"]) > 16_384


def nested(depth: int, *, as_list: bool) -> struct_pb2.Value:
    value = struct_pb2.Value(number_value=1)
    for _ in range(depth):
        outer = struct_pb2.Value()
        if as_list:
            outer.list_value.values.append(value)
        else:
            outer.struct_value.fields["a"].CopyFrom(value)
        value = outer
    return value


@pytest.mark.parametrize("depth", [31, 45, 2000])
@pytest.mark.parametrize("form", ["list", "struct", "json"])
async def test_nesting_beyond_its_limit_is_invalid_in_each_form(
    channel: grpc.aio.Channel, form: str, depth: int
):
    """Some of these requests can be decoded; others exceed the limits of every decoder."""
    if form == "json":
        data = _length_delimited(2, b"[" * depth + b'"[["' + b"]" * depth)
    else:
        # The test encodes this request itself, because encoders stop at a hundred nested messages.
        inner = b"\x20\x01"
        for _ in range(depth):
            entry = _length_delimited(1, b"a") + _length_delimited(2, inner)
            inner = (
                _length_delimited(6, _length_delimited(1, inner))
                if form == "list"
                else _length_delimited(5, _length_delimited(1, entry))
            )
        data = _length_delimited(1, inner)
    job = _length_delimited(1, b"email") + _length_delimited(3, data)
    valid_spec = _length_delimited(1, _length_delimited(1, b"email"))
    for name, raw, path in (
        ("SubmitJob", _length_delimited(1, job), "job.payload"),
        ("BatchSubmitJobs", valid_spec + _length_delimited(1, job), "jobs[1].payload"),
    ):
        error = await rpc_error(channel.unary_unary(METHOD_PREFIX + name)(raw))
        assert (error.code, error.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "LIMIT_EXCEEDED",
        )
        assert set(error.violations) == {path}
        assert error.metadata == {
            "limit": "nesting depth",
            "maximum": "30",
            "actual": str(depth),
        }


async def test_nesting_beyond_the_path_search_names_no_path(channel: grpc.aio.Channel):
    inner = b"\x20\x01"
    for _ in range(100):
        inner = _length_delimited(6, _length_delimited(1, inner))
    # The deep document is the first one, but the search starts at the last one.
    flat = _length_delimited(6, _length_delimited(1, b"\x20\x01") * 30_000)
    specs = [
        _length_delimited(1, b"email") + _length_delimited(3, _length_delimited(1, value))
        for value in (inner, flat)
    ]
    error = await rpc_error(
        raw_call(channel, "BatchSubmitJobs", b"".join(_length_delimited(1, s) for s in specs))
    )
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert "or a document in it is nested deeper than 30 levels" in error.message


@pytest.mark.parametrize("as_list", [True, False])
async def test_nesting_at_its_limit_is_accepted_and_returned(jobs: JobServiceStub, as_list: bool):
    value = nested(30, as_list=as_list)
    spec = JobSpec(type="email", payload=Data(value=value))
    batch = await jobs.BatchSubmitJobs(BatchSubmitJobsRequest(jobs=[spec]))
    job = (await jobs.SubmitJob(SubmitJobRequest(job=spec))).job
    for job_id in (job.id, batch.jobs[0].id):
        stored = (await jobs.GetJob(GetJobRequest(job_id=job_id))).job
        assert stored.payload.value == value


async def test_rejected_request_is_released(channel: grpc.aio.Channel):
    """After an abort, gRPC keeps the call in a reference cycle. The request must be released."""
    rounds = 10
    jobs = b"\x0a\x00" * 500_000
    filter_ = _length_delimited(1, b"\x0a\x00" * 500_000)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(rounds):
            for method, raw in (("BatchSubmitJobs", jobs), ("WatchJobs", filter_)):
                kind = "unary_stream" if method == "WatchJobs" else "unary_unary"
                call = getattr(channel, kind)(METHOD_PREFIX + method)(raw)
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        traced_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    # The gateway may still hold the last requests, because it sends the status before it releases
    # them.
    assert traced_bytes < rounds * len(jobs) / 2


async def test_invalid_watch_calls_list_all_violations(jobs: JobServiceStub):
    error = await rpc_error(
        jobs.WatchJob(WatchJobRequest(job_id="x", after_seq=-1, data_encoding=99)).read()
    )
    assert set(error.violations) == {"job_id", "after_seq", "data_encoding"}
    error = await rpc_error(jobs.WatchJobs(WatchJobsRequest(data_encoding=99)).read())
    assert set(error.violations) == {"data_encoding"}
    request = SubmitAndWatchRequest(
        job=JobSpec(type="X"), request_id="\n", after_seq=-1, data_encoding=99
    )
    error = await rpc_error(jobs.SubmitAndWatch(request).read())
    assert set(error.violations) == {"job.type", "request_id", "after_seq", "data_encoding"}


async def test_watch_of_unknown_job_is_not_found(jobs: JobServiceStub):
    error = await rpc_error(jobs.WatchJob(WatchJobRequest(job_id=str(uuid4()))).read())
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


async def test_concurrent_calls_keep_their_request_ids(jobs: JobServiceStub):
    async def call_and_read_request_id(number: int) -> bool:
        call = jobs.GetStats(GetStatsRequest(), metadata=((REQUEST_ID, f"r{number}"),))
        await call
        return dict(await call.trailing_metadata())[REQUEST_ID] == f"r{number}"

    assert all(await asyncio.gather(*(call_and_read_request_id(number) for number in range(100))))


async def test_health_and_reflection_keep_their_behavior(channel: grpc.aio.Channel):

    health = health_pb2_grpc.HealthStub(channel)
    call = health.Check(health_pb2.HealthCheckRequest())
    await call
    assert REQUEST_ID not in dict(await call.trailing_metadata() or ())
