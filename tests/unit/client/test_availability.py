"""The client while gateways are unavailable."""

import asyncio
import socket
import time

import grpc
import pytest

from headrace import (
    CallError,
    Client,
    DeadlineExceeded,
    InternalError,
    LimitExceeded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)


def unused_target():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_unavailable_call_is_retried(server, platform):
    platform.unavailable = 2
    async with Client(server.target) as client:
        job = await client.submit("wait")

    requests = [call.request for call in platform.received_calls]
    assert len(requests) == 3
    assert len({request.request_id for request in requests}) == 1
    assert list(platform.jobs) == [job.id]


async def test_unavailable_call_fails_after_its_retries(server, platform):
    platform.unavailable = 100
    async with Client(server.target, retries=2) as client:
        with pytest.raises(Unavailable, match="postgresql") as caught:
            await client.stats()

    assert len(platform.received_calls) == 3
    assert caught.value.refusal.metadata == {"dependency": "postgresql"}


async def test_call_cancelled_by_a_stopping_server_is_retried(server, platform):
    platform.reject_with = (grpc.StatusCode.CANCELLED, None)
    async with Client(server.target, retries=1) as client:
        with pytest.raises(Unavailable):
            await client.stats()

    assert len(platform.received_calls) == 2


async def test_rejected_call_is_not_retried(server, platform):
    async with Client(server.target) as client:
        with pytest.raises(CallError):
            await client.submit("invalid type")

    assert len(platform.received_calls) == 1


async def test_retries_end_before_the_deadline(server, platform):
    platform.unavailable = 100
    platform.retry_ms = 60_000
    async with Client(server.target, timeout=5) as client:
        start = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            await client.stats()

    assert time.monotonic() - start < 5
    assert caught.value.refusal.retry_after.total_seconds() == 60
    assert len(platform.received_calls) == 1


async def test_retry_waits_as_long_as_the_server_asks(server, platform):
    platform.unavailable = 1
    platform.retry_ms = 700
    async with Client(server.target) as client:
        start = time.monotonic()
        await client.stats()

    assert time.monotonic() - start >= 0.7


async def test_unary_call_has_a_deadline(server, platform):
    async with Client(server.target, timeout=7) as client:
        await client.stats()
        await client.handlers()

    assert all(0 < call.seconds_left <= 7.1 for call in platform.received_calls)


async def test_slow_call_raises_deadline_exceeded(server, platform):
    platform.silent = True
    async with Client(server.target, timeout=0.2) as client:
        with pytest.raises(DeadlineExceeded) as caught:
            await client.stats()

    assert isinstance(caught.value, TimeoutError)


async def test_call_without_a_gateway_is_unavailable():
    async with Client(unused_target(), retries=1) as client:
        with pytest.raises(Unavailable):
            await client.stats()
        with pytest.raises(Unavailable):
            await client.ping()


async def test_client_uses_the_first_reachable_gateway(server, platform):
    async with Client(f"{unused_target()}, {server.target}") as client:
        await client.stats()
        await client.stats()

    assert platform.called_methods() == ["GetStats", "GetStats"]


async def test_call_switches_to_another_gateway(server, second_server, platform):
    async with Client([server.target, second_server.target]) as client:
        await client.stats()
        await server.stop()

        job = await client.submit("square_sum", {"data": [1]})

        assert await job.result() == 1


async def test_target_defaults_to_the_environment(server, monkeypatch):
    monkeypatch.setenv("HEADRACE_TARGET", server.target)
    async with Client() as client:
        await client.ping()


@pytest.mark.parametrize("target", ["", " , ", []])
async def test_empty_target_is_rejected(target):
    with pytest.raises(ValueError, match="host:port"):
        Client(target)


async def test_cut_watch_yields_each_event_once(server, platform):
    async with Client(server.target) as client:
        job = await client.submit("wait")
        events = job.watch()
        seen = [await anext(events), await anext(events)]

        ahead = asyncio.create_task(anext(events))
        platform.cut()
        await platform.until(lambda: platform.started_streams[job.id] == 2)
        platform.finish(job.id)
        seen += [await ahead, *[event async for event in events]]

    assert [event.seq for event in seen] == [1, 2, 3]
    assert platform.last_request("WatchJob").after_seq == 1


async def test_watch_resumes_at_another_gateway(server, second_server, platform):
    async with Client([server.target, second_server.target]) as client:
        job = await client.submit("wait")
        events = job.watch()
        seen = [await anext(events), await anext(events)]

        await server.stop()
        ahead = asyncio.create_task(anext(events))
        await platform.until(lambda: platform.started_streams[job.id] == 2)
        platform.finish(job.id)
        seen += [await ahead, *[event async for event in events]]

    assert [event.seq for event in seen] == [1, 2, 3]


async def test_watch_resumes_after_a_restart_of_the_gateway(server, platform):
    async with Client(server.target) as client:
        job = await client.submit("wait")
        events = job.watch()
        seen = [await anext(events), await anext(events)]

        await server.stop()
        ahead = asyncio.create_task(anext(events))
        await server.start()
        await platform.until(lambda: platform.started_streams[job.id] == 2)
        platform.finish(job.id)
        seen += [await ahead, *[event async for event in events]]

    assert [event.seq for event in seen] == [1, 2, 3]


async def test_cut_submit_and_watch_attaches_to_the_same_job(server, platform):
    async with Client(server.target) as client:
        events = client.submit_and_watch("wait")
        seen = [await anext(events), await anext(events)]

        ahead = asyncio.create_task(anext(events))
        platform.cut()
        await platform.until(lambda: platform.started_streams[seen[0].job_id] == 2)
        platform.finish(seen[0].job_id)
        seen += [await ahead, *[event async for event in events]]

    assert [event.seq for event in seen] == [1, 2, 3]
    assert len(platform.jobs) == 1


async def test_watch_that_cannot_resume_raises_unavailable(server, platform):
    async with Client(server.target, resume_timeout=0.3) as client:
        job = await client.submit("wait")
        events = job.watch()
        await anext(events)
        await anext(events)

        platform.unavailable = 1_000
        platform.cut()
        with pytest.raises(Unavailable):
            await anext(events)


async def test_closed_watch_ends_its_stream(server, platform):
    async with Client(server.target) as client:
        job = await client.submit("wait")
        events = job.watch()
        await anext(events)
        await events.aclose()

        await platform.until(lambda: platform.ended_streams[job.id] == 1)


class RejectingInterceptor(grpc.aio.ServerInterceptor):
    """Rejects calls without a google.rpc.Status, as a proxy or a framework does."""

    def __init__(self, code):
        self._code = code

    async def intercept_service(self, continuation, details):
        handler = await continuation(details)

        async def reject(request, context):
            await context.abort(
                self._code, "rejected by a proxy", (("grpc-status-details-bin", b"\xff"),)
            )

        return grpc.unary_unary_rpc_method_handler(
            reject, handler.request_deserializer, handler.response_serializer
        )


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INTERNAL, InternalError),
        (grpc.StatusCode.UNKNOWN, InternalError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, LimitExceeded),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.UNIMPLEMENTED, CallError),
    ],
)
async def test_error_without_details_is_mapped_by_its_code(platform, code, error):
    server = grpc.aio.server(interceptors=[RejectingInterceptor(code)])
    for service, add in platform.services():
        add(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Client(f"127.0.0.1:{port}", retries=0) as client:
        with pytest.raises(error, match="rejected by a proxy") as caught:
            await client.stats()
    await server.stop(None)

    assert type(caught.value) is error
    assert caught.value.refusal.code == code.name


async def test_request_rejected_by_grpc_raises_limit_exceeded(server):
    async with Client(server.target) as client:
        with pytest.raises(LimitExceeded):
            await client.submit("wait", "x" * (5 * 1024 * 1024))
