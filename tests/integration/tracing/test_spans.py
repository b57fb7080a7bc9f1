"""The spans of a job: submit, wait, attempt and delivery, sent to a collector over OTLP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest

from headrace import Client, JobFailed
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    GetJobRequest,
    SubmitJobRequest,
    SubmitJobsEntry,
    SubmitJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tracing import Tracing
from headrace_gateway.service import Gateway
from headrace_scheduler.service import Scheduler
from headrace_worker.service import WorkerService
from support.collector import Collector, running_collector
from support.traced_handlers import traced_handlers

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
UNSAMPLED = f"00-{TRACE_ID}-00f067aa0ba902b7-00"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with running_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
        yield collector


def ids(traceparent: str) -> tuple[str, str]:
    """Return the ids of the trace and of the span of a trace context."""
    _, trace_id, span_id, _ = traceparent.split("-")
    return trace_id, span_id


def is_sampled(traceparent: str) -> bool:
    """Return whether the flag `sampled` of a trace context is set."""
    return bool(int(traceparent[-2:], 16) & 1)


@asynccontextmanager
async def traced_platform(settings: Settings) -> AsyncIterator[str]:
    """Run all services with traces; yield the gateway's address. The end sends all spans."""
    gateway = Gateway(settings, tracing=Tracing("gateway"))
    worker = WorkerService(settings, traced_handlers(), tracing=Tracing("worker"))
    services = (Scheduler(settings), worker, gateway)
    started = []
    try:
        for service in services:
            await service.start()
            started.append(service)
        yield f"127.0.0.1:{gateway.port}"
    finally:
        for service in reversed(started):
            await service.stop()


@pytest.mark.parametrize("mode", ["loop", "thread", "process"])
async def test_handler_joins_the_trace_of_its_attempt(
    settings: Settings, collector: Collector, mode: str
) -> None:
    async with (
        traced_platform(settings) as target,
        Client(target, metadata={"traceparent": SAMPLED}) as client,
    ):
        job = await client.submit(f"traced.{mode}")
        result = await job.result(timeout=60)
        stored = await job.get()
    submit, wait, attempt = collector.wait_for(
        "headrace.v1.JobService/SubmitJob", f"wait traced.{mode}", f"attempt traced.{mode}"
    )
    assert (submit.service, attempt.service) == ("headrace-gateway", "headrace-worker")
    assert (submit.trace_id, submit.parent_id) == (TRACE_ID, SAMPLED[36:52])
    assert submit.attributes["headrace.job.id"] == job.id
    assert ids(stored.traceparent) == submit.ids
    assert attempt.trace_id != TRACE_ID
    assert attempt.links == (submit.ids,)
    assert attempt.attributes == {
        "headrace.job.id": job.id,
        "headrace.job.type": f"traced.{mode}",
        "headrace.job.queue": "default",
        "headrace.job.attempt": 1,
        "headrace.job.outcome": "succeeded",
        "headrace.tenant": "default",
    }
    assert (wait.trace_id, wait.parent_id) == (attempt.trace_id, attempt.span_id)
    assert wait.start <= wait.end <= attempt.end
    current, own = result
    assert current == own
    assert ids(own["traceparent"]) == attempt.ids


async def test_entries_of_a_message_belong_to_the_traces_of_their_callers(
    settings: Settings, collector: Collector
) -> None:
    parents = [f"00-{number:032x}-00f067aa0ba902b7-01" for number in (1, 2)]
    entries = [
        SubmitJobsEntry(
            request=SubmitJobRequest(job=JobSpec(type="traced.idle")), traceparent=parent
        )
        for parent in parents
    ]
    async with (
        traced_platform(settings) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        jobs = JobServiceStub(channel)
        response = await jobs.SubmitJobs(SubmitJobsRequest(entries=entries))
        ids_of_jobs = [result.response.job.id for result in response.results]
        stored = [
            (await jobs.GetJob(GetJobRequest(job_id=job_id))).job.traceparent
            for job_id in ids_of_jobs
        ]
    name = "headrace.v1.JobService/SubmitJobs"
    collector.wait_for(name)
    spans = sorted(
        (span for span in collector.spans if span.name == name), key=lambda span: span.trace_id
    )
    assert [span.trace_id for span in spans] == [ids(parent)[0] for parent in parents]
    assert [span.attributes["headrace.job.id"] for span in spans] == ids_of_jobs
    assert [ids(traceparent) for traceparent in stored] == [span.ids for span in spans]


async def test_delivery_of_the_end_has_a_span(settings: Settings, collector: Collector) -> None:
    async with traced_platform(settings) as target, Client(target) as client:
        job = await client.submit("traced.loop")
        await job.result(timeout=60)
        assert [event.seq async for event in job.watch()] == [1, 2, 3]
    submit, deliver = collector.wait_for("headrace.v1.JobService/SubmitJob", "deliver")
    assert deliver.links == (submit.ids,)
    assert deliver.attributes["headrace.job.id"] == job.id
    assert deliver.start <= deliver.end


async def test_span_of_a_failed_attempt_has_no_message(
    settings: Settings, collector: Collector
) -> None:
    async with traced_platform(settings) as target, Client(target) as client:
        job = await client.submit("traced.fail", {"secret": "a confidential payload"})
        with pytest.raises(JobFailed):
            await job.result(timeout=60)
    [attempt] = collector.wait_for("attempt traced.fail")
    assert attempt.failed
    assert attempt.attributes["error.type"] == "BadInput"
    assert attempt.attributes["headrace.job.outcome"] == "failed"
    assert not any("confidential" in span.text for span in collector.spans)


async def test_unsampled_submit_has_no_spans(settings: Settings, collector: Collector) -> None:
    async with traced_platform(settings) as target:
        async with Client(target, metadata={"traceparent": UNSAMPLED}) as client:
            job = await client.submit("traced.loop")
            headers, _ = await job.result(timeout=60)
        async with Client(target, metadata={"traceparent": SAMPLED}) as client:
            sampled = await client.submit("traced.loop")
            await sampled.result(timeout=60)
    collector.wait_for("attempt traced.loop")
    assert {span.attributes.get("headrace.job.id") for span in collector.spans} == {sampled.id}
    assert not is_sampled(headers["traceparent"])


async def test_root_spans_follow_the_configured_sampler(
    settings: Settings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with traced_platform(settings) as target, Client(target) as client:
        job = await client.submit("traced.loop")
        headers, _ = await job.result(timeout=60)
    assert not is_sampled(headers["traceparent"])
    assert collector.spans == []


async def test_unreachable_collector_delays_no_job(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Nothing listens on port 1.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    tracing = Tracing("worker")
    worker = WorkerService(settings, traced_handlers(), tracing=tracing)
    gateway = Gateway(settings)
    for service in (worker, gateway):
        await service.start()
    try:
        async with Client(f"127.0.0.1:{gateway.port}") as client:
            jobs = [await client.submit("traced.loop") for _ in range(30)]
            async with asyncio.timeout(60):
                for job in jobs:
                    await job.result()
    finally:
        for service in (gateway, worker):
            await service.stop()
    # Each of the 30 attempts has two spans; at most one batch of ten is still in an export.
    assert tracing.exports.lost >= 40
    assert tracing.exports.exported == 0
    assert "opentelemetry" not in capfd.readouterr().err
