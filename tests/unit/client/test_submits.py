"""Concurrent submits of a client: which messages carry them, and what happens to a failed one."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import grpc
import pytest
from grpc import aio

from headrace import Client, DeadlineExceeded, InvalidRequest, Unavailable
from headrace._submits import SharedSubmits
from headrace.errors import Refusal
from headrace.testing._calls import status_message
from headrace.v1 import job_service_pb2 as pb
from headrace.v1.job_pb2 import Job, JobSpec
from support.until import until

QUOTA_EXCEEDED = status_message(
    Refusal(code="RESOURCE_EXHAUSTED", reason="QUOTA_EXCEEDED", message="the quota is used up")
).SerializeToString()


class Stub:
    """The JobService stub of a gateway whose calls the test ends.

    Attributes:
        calls: the open calls in order: the method, the request, and the future response.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, asyncio.Future[Any]]] = []
        self.metadata: list[Any] = []

    def SubmitJob(self, request: Any, *, timeout: float, metadata: Any) -> Any:  # noqa: N802
        return self._start("SubmitJob", request, timeout, metadata)

    def SubmitJobs(self, request: Any, *, timeout: float, metadata: Any) -> Any:  # noqa: N802
        return self._start("SubmitJobs", request, timeout, metadata)

    def _start(self, method: str, request: Any, timeout: float, metadata: Any) -> Any:
        assert timeout > 0
        future = asyncio.get_running_loop().create_future()
        self.calls.append((method, request, future))
        self.metadata.append(metadata)
        return future

    def methods(self) -> list[str]:
        return [method for method, _, _ in self.calls]

    def answer(self, number: int) -> None:
        """End a call; the job of each submit has the submit's request_id as its id."""
        method, request, future = self.calls[number]
        if method == "SubmitJob":
            future.set_result(response_to(request))
        else:
            results = [
                pb.SubmitJobsResult(response=response_to(entry.request))
                for entry in request.entries
            ]
            future.set_result(pb.SubmitJobsResponse(results=results))

    def fail(self, number: int, code: grpc.StatusCode, *, details: bytes | None = None) -> None:
        trailers = aio.Metadata()
        if details is not None:
            trailers.add("grpc-status-details-bin", details)
        self.calls[number][2].set_exception(
            aio.AioRpcError(code, aio.Metadata(), trailers, "failed", None)
        )


def response_to(request: pb.SubmitJobRequest) -> pb.SubmitJobResponse:
    return pb.SubmitJobResponse(job=Job(id=request.request_id))


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def submits(stub: Stub) -> SharedSubmits:
    return SharedSubmits(stub)  # type: ignore[arg-type]


def start(
    submits: SharedSubmits, *keys: str, metadata: Any = None, size: int = 0
) -> list[asyncio.Task[pb.SubmitJobResponse]]:
    job = JobSpec(type="email", labels={"x": "y" * size})
    return [
        asyncio.create_task(
            submits(pb.SubmitJobRequest(request_id=key, job=job), timeout=60.0, metadata=metadata)
        )
        for key in keys
    ]


async def start_alone(submits: SharedSubmits, key: str) -> asyncio.Task[pb.SubmitJobResponse]:
    """Start a submit in an iteration of its own."""
    [task] = start(submits, key)
    await turn()
    return task


async def turn() -> None:
    """Let all tasks that can run go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def ids_of(tasks: list[asyncio.Task[pb.SubmitJobResponse]]) -> list[str]:
    return [response.job.id for response in await asyncio.gather(*tasks)]


async def test_lone_submit_is_a_call_of_its_own(submits: SharedSubmits, stub: Stub) -> None:
    tasks = start(submits, "a")
    await turn()
    assert stub.methods() == ["SubmitJob"]
    stub.answer(0)
    assert await ids_of(tasks) == ["a"]


async def test_submits_of_one_iteration_share_a_message(submits: SharedSubmits, stub: Stub) -> None:
    tasks = start(submits, "a", "b", "c")
    await turn()
    assert stub.methods() == ["SubmitJobs"]
    stub.answer(0)
    assert await ids_of(tasks) == ["a", "b", "c"]


async def test_submits_wait_while_two_messages_are_in_flight(
    submits: SharedSubmits, stub: Stub
) -> None:
    tasks = [await start_alone(submits, key) for key in "abcd"]
    assert stub.methods() == ["SubmitJob", "SubmitJob"]
    stub.answer(0)
    await turn()
    assert stub.methods() == ["SubmitJob", "SubmitJob", "SubmitJobs"]
    stub.answer(1)
    stub.answer(2)
    assert await ids_of(tasks) == ["a", "b", "c", "d"]


async def test_submit_does_not_wait_for_ever_for_slow_messages(
    submits: SharedSubmits, stub: Stub
) -> None:
    tasks = [await start_alone(submits, key) for key in "abc"]
    await until(lambda: len(stub.calls) == 3)
    stub.answer(2)
    assert await ids_of(tasks[2:]) == ["c"]
    stub.answer(0)
    stub.answer(1)
    await asyncio.gather(*tasks)


async def test_message_has_a_limit_of_entries_and_bytes(submits: SharedSubmits, stub: Stub) -> None:
    small = start(submits, *(f"s{n}" for n in range(300)))
    await turn()
    large = start(submits, *(f"l{n}" for n in range(3)), size=600_000, metadata=(("x", "y"),))
    await turn()
    sizes = [len(getattr(request, "entries", [0])) for _, request, _ in stub.calls]
    assert sizes == [256, 44, 1, 1, 1]
    for number in range(5):
        stub.answer(number)
    await asyncio.gather(*small, *large)


async def test_submits_with_different_headers_do_not_share_a_message(
    submits: SharedSubmits, stub: Stub
) -> None:
    tasks = start(submits, "a", "b", metadata=(("authorization", "Bearer 1"),))
    tasks += start(submits, "c", "d", metadata=(("authorization", "Bearer 2"),))
    await turn()
    assert [len(request.entries) for _, request, _ in stub.calls] == [2, 2]
    assert [metadata[0][1] for metadata in stub.metadata] == ["Bearer 1", "Bearer 2"]
    stub.answer(0)
    stub.answer(1)
    assert await ids_of(tasks) == ["a", "b", "c", "d"]


async def test_correlation_ids_and_traces_are_fields_of_entries(
    submits: SharedSubmits, stub: Stub
) -> None:
    tasks = start(submits, "a", metadata=(("x-request-id", "1"),))
    tasks += start(submits, "b", metadata=(("x-request-id", "2"),))
    tasks += start(submits, "c", metadata=(("traceparent", "00-1-2-01"),))
    await turn()
    entries = stub.calls[0][1].entries
    assert [entry.correlation_id for entry in entries] == ["1", "2", ""]
    assert [entry.traceparent for entry in entries] == ["", "", "00-1-2-01"]
    stub.answer(0)
    assert await ids_of(tasks) == ["a", "b", "c"]


async def test_headers_of_a_lone_submit_stay_headers(submits: SharedSubmits, stub: Stub) -> None:
    metadata = (("authorization", "Bearer 1"), ("x-request-id", "1"), ("traceparent", "00-1-2-01"))
    tasks = start(submits, "a", metadata=metadata)
    await turn()
    assert stub.metadata == [metadata]
    stub.answer(0)
    assert await ids_of(tasks) == ["a"]


async def test_calls_do_not_run_in_the_context_of_a_submitter(
    submits: SharedSubmits, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    span: contextvars.ContextVar[str] = contextvars.ContextVar("span", default="")
    seen: list[str] = []
    start_call = stub._start

    def record(*arguments: Any) -> Any:
        seen.append(span.get())
        return start_call(*arguments)

    monkeypatch.setattr(stub, "_start", record)
    span.set("mine")
    tasks = start(submits, "a", "b")
    await turn()
    assert seen == [""]
    stub.answer(0)
    assert await ids_of(tasks) == ["a", "b"]


async def test_submit_that_is_cancelled_before_it_was_sent_is_dropped(
    submits: SharedSubmits, stub: Stub
) -> None:
    tasks = start(submits, "a", "b", "c")
    await asyncio.sleep(0)
    tasks[1].cancel()
    await turn()
    entries = stub.calls[0][1].entries
    assert [entry.request.request_id for entry in entries] == ["a", "c"]
    stub.answer(0)
    assert await ids_of([tasks[0], tasks[2]]) == ["a", "c"]


async def test_call_is_cancelled_with_its_last_submit(submits: SharedSubmits, stub: Stub) -> None:
    tasks = start(submits, "a", "b")
    await turn()
    call = stub.calls[0][2]
    tasks[0].cancel()
    await turn()
    assert not call.done()
    tasks[1].cancel()
    await turn()
    assert call.cancelled()
    # A later submit does not wait for the cancelled one.
    later = start(submits, "c")
    await turn()
    stub.answer(1)
    assert await ids_of(later) == ["c"]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED])
async def test_each_submit_of_a_failed_message_has_its_error(
    submits: SharedSubmits, stub: Stub, code: grpc.StatusCode
) -> None:
    tasks = start(submits, "a", "b")
    await turn()
    stub.fail(0, code)
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [error.code() for error in errors] == [code, code]  # type: ignore[union-attr]


async def test_older_gateway_gets_single_submits(submits: SharedSubmits, stub: Stub) -> None:
    tasks = start(submits, "a", "b")
    await turn()
    stub.fail(0, grpc.StatusCode.UNIMPLEMENTED)
    await turn()
    assert stub.methods() == ["SubmitJobs", "SubmitJob", "SubmitJob"]
    stub.answer(1)
    stub.answer(2)
    tasks += start(submits, "c", "d")
    await turn()
    assert stub.methods()[3:] == ["SubmitJob", "SubmitJob"]
    stub.answer(3)
    stub.answer(4)
    assert await ids_of(tasks) == ["a", "b", "c", "d"]


async def test_rejected_message_is_sent_again_as_single_submits(
    submits: SharedSubmits, stub: Stub
) -> None:
    """An invalid message may contain valid submits."""
    tasks = start(submits, "a", "b")
    await turn()
    stub.fail(0, grpc.StatusCode.INVALID_ARGUMENT)
    await turn()
    stub.answer(1)
    stub.fail(2, grpc.StatusCode.INVALID_ARGUMENT)
    good, bad = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(good, pb.SubmitJobResponse)
    assert isinstance(bad, aio.AioRpcError)
    # The next submits share a message again.
    later = start(submits, "c", "d")
    await turn()
    assert stub.methods()[3:] == ["SubmitJobs"]
    stub.answer(3)
    assert await ids_of(later) == ["c", "d"]


async def test_message_rejected_by_a_quota_is_not_sent_again(
    submits: SharedSubmits, stub: Stub
) -> None:
    tasks = start(submits, "a", "b")
    await turn()
    stub.fail(0, grpc.StatusCode.RESOURCE_EXHAUSTED, details=QUOTA_EXCEEDED)
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, aio.AioRpcError) for error in errors)
    assert stub.methods() == ["SubmitJobs"]


async def test_message_too_large_for_the_gateway_is_sent_as_single_submits(
    submits: SharedSubmits, stub: Stub
) -> None:
    tasks = start(submits, "a", "b")
    await turn()
    stub.fail(0, grpc.StatusCode.RESOURCE_EXHAUSTED)
    await turn()
    assert stub.methods() == ["SubmitJobs", "SubmitJob", "SubmitJob"]
    stub.answer(1)
    stub.answer(2)
    assert await ids_of(tasks) == ["a", "b"]


async def test_submits_beyond_the_limit_of_messages_are_sent_after_a_response(
    submits: SharedSubmits, stub: Stub
) -> None:
    tasks = start(submits, *(f"l{n}" for n in range(70)), size=2_000_000)
    await turn()
    assert len(stub.calls) == 64
    for number in range(70):
        await until(lambda number=number: len(stub.calls) > number)
        stub.answer(number)
        await turn()
    assert await ids_of(tasks) == [f"l{n}" for n in range(70)]


async def test_deadline_beyond_the_largest_duration_is_sent_as_that(
    submits: SharedSubmits, stub: Stub
) -> None:
    request = pb.SubmitJobRequest(request_id="a")
    tasks = [asyncio.create_task(submits(request, timeout=1e12)) for _ in range(2)]
    await turn()
    assert [entry.timeout.seconds for entry in stub.calls[0][1].entries] == [315_576_000_000] * 2
    stub.answer(0)
    assert await ids_of(tasks) == ["a", "a"]


async def test_submit_ends_at_its_own_deadline(submits: SharedSubmits, stub: Stub) -> None:
    short = asyncio.create_task(submits(pb.SubmitJobRequest(request_id="a"), timeout=0.01))
    long = start(submits, "b")
    with pytest.raises(aio.AioRpcError) as caught:
        await short
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    stub.answer(0)
    assert await ids_of(long) == ["b"]


async def test_unavailable_message_is_retried_with_the_same_request_ids(
    platform: Any, server: Any
) -> None:
    async with Client(server.target) as client:
        platform.unavailable = 1
        handles = await asyncio.gather(
            *(client.submit("queued", request_id=f"k{n}") for n in range(5))
        )
    assert len({handle.id for handle in handles}) == len(platform.jobs) == 5
    assert "SubmitJobs" in platform.called_methods()


async def test_invalid_submit_does_not_fail_its_message(platform: Any, server: Any) -> None:
    async with Client(server.target) as client:
        results = await asyncio.gather(
            *(client.submit(name) for name in ("queued", "Bad Type", "queued")),
            return_exceptions=True,
        )
    assert isinstance(results[1], InvalidRequest)
    assert results[1].refusal == Refusal(
        code="INVALID_ARGUMENT",
        message=results[1].refusal.message,
        reason="INVALID_ARGUMENT",
        violations=results[1].violations,
    )
    assert len(platform.jobs) == 2


async def test_silent_gateway_ends_each_submit_at_its_deadline(platform: Any, server: Any) -> None:
    platform.silent = True
    async with Client(server.target, retries=0) as client:
        results = await asyncio.gather(
            *(client.submit("queued", call_timeout=0.2) for _ in range(3)), return_exceptions=True
        )
        assert all(isinstance(result, DeadlineExceeded | Unavailable) for result in results)
        platform.silent = False
        platform.wake()
