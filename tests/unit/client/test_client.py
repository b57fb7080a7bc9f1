"""The asynchronous client, against a real server in this process."""

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from headrace import (
    Client,
    InvalidRequest,
    JobCancelled,
    JobEventType,
    JobFailed,
    JobNotFound,
    JobSpec,
    JobState,
    Omitted,
    RequestIdConflict,
    RetryPolicy,
    StateConflict,
    SubmitOutcome,
    Unavailable,
)


@pytest.fixture
async def client(server):
    async with Client(server.target) as client:
        yield client


async def test_job_is_submitted_followed_and_returns_its_result(client):
    job = await client.submit("square_sum", {"data": [1, 2, 3]})

    events = [event async for event in job.watch()]

    assert [event.type for event in events] == [
        JobEventType.SUBMITTED,
        JobEventType.STARTED,
        JobEventType.PROGRESSED,
        JobEventType.OUTPUT,
        JobEventType.SUCCEEDED,
    ]
    assert [event.seq for event in events] == [1, 2, 3, 4, 5]
    assert events[2].progress.counters == {"added": 2}
    assert events[3].output == "half"
    assert events[4].state.terminal
    assert await job.result() == 14
    assert [piece.output async for piece in job.output()] == ["half"]


async def test_output_is_read_page_by_page(client, platform):
    job = await client.submit("slow")
    for number in range(3):
        platform.emit(job.id, number)
    platform.emit(job.id, None)
    platform.events(job.id)[-1].output.omitted_bytes = 2_000_000
    found = [(p.seq, p.attempt, p.output) async for p in client.output(job.id)]
    assert found == [(3, 1, 0), (4, 1, 1), (5, 1, 2), (6, 1, Omitted(2_000_000))]
    assert [p.seq async for p in job.output(after_seq=4)] == [5, 6]
    assert [seen.method for seen in platform.received_calls].count("ListJobOutput") == 6


async def test_submit_sends_all_fields_of_a_spec(client, platform):
    at = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    await client.submit(
        "email",
        {"to": "ä@example.org", "big": 2**60},
        queue="mail",
        priority=-5,
        labels={"team": "ml"},
        schedule_time=at,
        timeout=1.5,
        deadline=at + timedelta(hours=1),
        retry=RetryPolicy(
            max_attempts=4,
            initial_backoff=0.5,
            jitter=0.0,
            non_retryable_error_types=["ValueError"],
        ),
        request_id="order-17",
    )

    request = platform.last_request("SubmitJob")
    assert request.request_id == "order-17"
    spec = request.job
    assert json.loads(spec.payload.json) == {"to": "ä@example.org", "big": 2**60}
    assert (spec.type, spec.queue, spec.priority, dict(spec.labels)) == (
        "email",
        "mail",
        -5,
        {"team": "ml"},
    )
    assert spec.schedule_time.ToDatetime(tzinfo=UTC) == at
    assert spec.deadline.ToDatetime(tzinfo=UTC) == at + timedelta(hours=1)
    assert spec.timeout.ToMilliseconds() == 1500
    assert spec.retry_policy.max_attempts == 4
    assert spec.retry_policy.initial_backoff.ToMilliseconds() == 500
    assert spec.retry_policy.HasField("jitter")
    assert spec.retry_policy.jitter == 0
    assert spec.retry_policy.non_retryable_error_types == ["ValueError"]
    assert not spec.retry_policy.HasField("multiplier")
    assert not spec.retry_policy.HasField("max_backoff")


async def test_call_deadline_becomes_the_job_deadline_on_request(client, platform):
    await client.submit("email", use_call_deadline=True, call_timeout=500)
    await client.submit_many([JobSpec("email")], use_call_deadline=True, call_timeout=500)
    await client.submit("email")

    *with_deadline, usual = platform.received_calls[-3:]
    assert [seen.request.use_call_deadline for seen in with_deadline] == [True, True]
    assert all(400 < seen.seconds_left < 510 for seen in with_deadline)
    assert not usual.request.use_call_deadline
    assert usual.seconds_left < 20


async def test_delay_is_sent_as_schedule_time(client, platform):
    before = datetime.now(UTC)
    job = await client.submit("later", delay=timedelta(minutes=1))

    assert job.job.state is JobState.SCHEDULED
    at = platform.last_request("SubmitJob").job.schedule_time.ToDatetime(tzinfo=UTC)
    assert before + timedelta(minutes=1) <= at <= datetime.now(UTC) + timedelta(minutes=1)


@pytest.mark.parametrize(
    "options",
    [
        {"delay": 1, "schedule_time": datetime.now(UTC)},
        {"schedule_time": datetime(2030, 1, 1)},  # noqa: DTZ001
        {"deadline": datetime(2030, 1, 1)},  # noqa: DTZ001
    ],
)
async def test_contradictory_spec_is_rejected_without_a_call(client, platform, options):
    with pytest.raises(ValueError, match=r"delay or schedule_time|time zone"):
        await client.submit("x", **options)
    assert platform.received_calls == []


async def test_payload_that_is_not_json_is_rejected_without_a_call(client, platform):
    with pytest.raises(ValueError, match="Out of range float"):
        await client.submit("x", {"n": float("nan")})
    with pytest.raises(TypeError, match="not JSON serializable"):
        await client.submit("x", {"n": object()})
    assert platform.received_calls == []


async def test_repeated_request_id_returns_the_same_job(client):
    first = await client.submit("wait", request_id="a")
    second = await client.submit("wait", request_id="a")

    assert first.id == second.id
    assert (first.outcome, second.outcome) == (SubmitOutcome.CREATED, SubmitOutcome.EXISTING)


async def test_request_id_with_different_content_is_a_conflict(client):
    job = await client.submit("wait", {"n": 1}, request_id="a")

    with pytest.raises(RequestIdConflict) as caught:
        await client.submit("wait", {"n": 2}, request_id="a")

    assert (caught.value.request_id, caught.value.job_id) == ("a", job.id)


async def test_submit_validate_only_returns_the_outcome(client):
    would = await client.submit("square_sum", {"data": []}, validate_only=True)
    unknown = await client.submit("unknown", validate_only=True)

    assert (would.id, would.outcome) == ("", SubmitOutcome.WOULD_RUN)
    assert unknown.outcome is SubmitOutcome.NO_WORKER


async def test_invalid_request_lists_every_violation(client):
    with pytest.raises(InvalidRequest) as caught:
        await client.submit("invalid type", priority=101)

    assert [v.field for v in caught.value.violations] == ["job.type", "job.priority"]
    assert caught.value.refusal.code == "INVALID_ARGUMENT"


async def test_unknown_job_is_not_found(client):
    unknown = str(uuid4())
    for call in (client.get(unknown), client.cancel(unknown), client.retry(unknown)):
        with pytest.raises(JobNotFound) as caught:
            await call
        assert caught.value.job_id == unknown
    with pytest.raises(JobNotFound):
        await anext(client.watch_job(unknown))


async def test_result_of_a_failed_job_raises_its_error(client):
    job = await client.submit("fails")

    with pytest.raises(JobFailed, match="ValueError: no good") as caught:
        await job.result()

    assert caught.value.error.type == "ValueError"
    assert caught.value.job.id == job.id


async def test_result_of_a_cancelled_job_raises_job_cancelled(client):
    job = await client.submit("wait")
    assert (await job.cancel()).state is JobState.CANCELLED

    with pytest.raises(JobCancelled):
        await job.result()


async def test_result_returns_at_the_end_of_the_job(client, platform):
    job = await client.submit("wait")
    result = asyncio.create_task(job.result())
    await platform.until(lambda: platform.started_streams[job.id])

    platform.finish(job.id, result={"ok": True})

    assert await result == {"ok": True}


async def test_result_with_a_timeout_can_be_repeated(client, platform):
    job = await client.submit("wait")

    with pytest.raises(TimeoutError):
        await job.result(timeout=0.05)

    platform.finish(job.id, result=1)
    assert await job.result(timeout=30) == 1


async def test_handle_of_an_existing_job_returns_its_result(client):
    job = await client.submit("square_sum", {"data": [2]})

    assert await client.job(job.id).result() == 4


async def test_result_of_a_requeued_job_waits_for_its_new_end(client, platform):
    job = await client.submit("fails")
    with pytest.raises(JobFailed):
        await job.result()
    assert (await job.retry()).state is JobState.QUEUED
    result = asyncio.create_task(client.job(job.id).result())
    await platform.until(lambda: platform.started_streams[job.id] == 2)

    platform.finish(job.id, result="better")

    assert await result == "better"


async def test_cancel_of_an_ended_job_is_a_state_conflict(client):
    job = await client.submit("square_sum", {"data": []})

    with pytest.raises(StateConflict) as caught:
        await job.cancel()

    assert caught.value.state == "SUCCEEDED"
    assert caught.value.allowed == ("SCHEDULED", "QUEUED", "RETRYING", "RUNNING")


async def test_submit_many_sends_one_request(client, platform):
    batch = await client.submit_many([JobSpec("wait", {"n": n}) for n in range(1000)])

    assert len(batch) == len({job.id for job in batch}) == 1000
    assert batch.id
    assert batch[7].job.batch_id == batch.id
    assert platform.called_methods() == ["BatchSubmitJobs"]


@pytest.mark.parametrize("count", [0, 1001])
async def test_batch_of_invalid_size_is_rejected_without_a_call(client, platform, count):
    with pytest.raises(ValueError, match=f"^{count} jobs; a batch must have 1 to 1,000 jobs"):
        await client.submit_many([JobSpec("wait")] * count)
    assert platform.received_calls == []


async def test_submit_in_batches_divides_the_jobs(client, platform):
    jobs = (JobSpec("wait", {"n": n}) for n in range(25))

    batches = [b async for b in client.submit_in_batches(jobs, size=10, request_id="nightly")]

    assert [len(batch) for batch in batches] == [10, 10, 5]
    ids = [call.request.request_id for call in platform.received_calls]
    assert ids == ["nightly/1", "nightly/2", "nightly/3"]


async def test_concurrent_batches_are_yielded_in_order(client, platform):
    jobs = (JobSpec("wait", {"n": n}) for n in range(45))

    batches = [
        [job.job.create_time is not None for job in batch]
        async for batch in client.submit_in_batches(jobs, size=10, in_flight=3, request_id="k")
    ]

    assert [len(batch) for batch in batches] == [10, 10, 10, 10, 5]
    assert sorted(c.request.request_id for c in platform.received_calls) == [
        f"k/{n}" for n in range(1, 6)
    ]


async def test_stopped_iteration_submits_only_batches_in_flight(client, platform):
    created = []

    def jobs():
        for n in range(1000):
            created.append(n)
            yield JobSpec("wait")

    async with aclosing(client.submit_in_batches(jobs(), size=10, in_flight=2)) as batches:
        async for _ in batches:
            break

    assert len(created) == 20
    assert len(platform.received_calls) <= 2


async def test_in_flight_below_one_is_rejected(client):
    with pytest.raises(ValueError, match="in_flight is 0; it must be at least 1"):
        await anext(client.submit_in_batches([JobSpec("wait")], in_flight=0))


async def test_batches_stay_below_the_request_limit(client, platform):
    async def jobs():
        for n in range(5):
            yield JobSpec("wait", {"n": n, "text": "x" * 1_500_000})

    sizes = [len(batch) async for batch in client.submit_in_batches(jobs())]

    assert sizes == [2, 2, 1]
    assert all(call.request.ByteSize() < 4 * 1024 * 1024 for call in platform.received_calls)


async def test_submit_and_watch_is_one_call(client, platform):
    events = [event async for event in client.submit_and_watch("square_sum", {"data": [3]})]

    assert [event.seq for event in events] == [1, 2, 3, 4, 5]
    assert platform.called_methods() == ["SubmitAndWatch"]


async def test_list_yields_all_pages_of_jobs(client, platform):
    await client.submit_many([JobSpec("wait") for _ in range(7)])

    jobs = [job async for job in client.list(filter="type = wait", page_size=3)]

    assert len({job.id for job in jobs}) == 7
    assert platform.called_methods().count("ListJobs") == 3
    assert platform.last_request("ListJobs").filter == "type = wait"


async def test_events_yields_all_pages(client, platform):
    job = await client.submit("square_sum", {"data": []})

    assert [event.seq async for event in client.events(job.id)] == [1, 2, 3, 4, 5]
    assert [event.seq async for event in client.events(job.id, after_seq=3)] == [4, 5]
    assert platform.called_methods().count("ListJobEvents") == 4


async def test_stats_and_handlers_are_returned(client, platform):
    await client.submit("square_sum", {"data": []})
    await client.submit("fails")
    queued = await client.submit("queued")
    platform.backdate(queued.id, timedelta(minutes=90))

    stats = await client.stats()
    assert stats.states == {JobState.QUEUED: 1, JobState.SUCCEEDED: 1, JobState.FAILED: 1}
    assert stats.queues[0].age >= timedelta(minutes=90)
    handler, other = await client.handlers()
    assert other.type == "zip"
    assert handler.type == "square_sum"
    assert handler.payload_schema == {"type": "object"}
    assert handler.timeout == timedelta(seconds=30)
    assert handler.retry_policy == RetryPolicy(max_attempts=3)


async def test_ping_calls_the_health_service(client, server):
    assert await client.ping() > timedelta()

    await server.health.enter_graceful_shutdown()
    with pytest.raises(Unavailable, match="is not serving"):
        await client.ping()


async def test_new_enum_value_is_unknown(client, platform):
    job = await client.submit("wait")
    platform.jobs[job.id].state = 99
    submitted = platform.events(job.id)[0]
    submitted.type = submitted.state = 99

    assert (await job.get()).state is JobState.UNKNOWN
    event = await anext(job.watch())
    assert (event.type, event.state) == (JobEventType.UNKNOWN, JobState.UNKNOWN)
    assert not event.state.terminal


async def test_closed_client_raises_an_error(server):
    client = Client(server.target)
    await client.close()

    with pytest.raises(RuntimeError, match="closed"):
        await client.get("x")


async def test_correlation_id_is_sent_with_every_submit(client):
    job = await client.submit("wait", correlation_id="trace-17")
    batch = await client.submit_many([JobSpec("wait")], correlation_id="trace-17")
    batches = [
        part
        async for part in client.submit_in_batches([JobSpec("wait")], correlation_id="trace-17")
    ]
    async with client.submit_and_watch("wait", correlation_id="trace-17") as watch:
        watched = (await anext(watch)).job_id
    for job_id in (job.id, batch.jobs[0].id, batches[0].jobs[0].id, watched):
        assert (await client.get(job_id)).correlation_id == "trace-17"


@pytest.mark.parametrize("bad", ["", "x" * 129, "ä", "a\nb"])
async def test_invalid_correlation_id_is_rejected(client, bad):
    with pytest.raises(ValueError, match="use 1 to 128 printable ASCII characters"):
        await client.submit("wait", correlation_id=bad)


async def test_error_in_the_full_view_has_a_stack_trace(client):
    job = await client.submit("fails")
    with pytest.raises(JobFailed) as failed:
        await job.result()
    assert "line 1, in" in failed.value.error.stack_trace
    assert (await client.get(job.id, full=False)).error.stack_trace == ""


async def test_after_seq_beyond_the_end_yields_only_larger_numbers(server, platform):
    async with Client(server.target) as client:
        job = await client.submit("wait")
        watch = job.watch(after_seq=3)
        assert [event async for event in client.events(job.id, after_seq=3)] == []

        first = asyncio.create_task(anext(watch))
        await platform.until(lambda: platform.started_streams[job.id])
        # The watch skips number 3 and yields number 4.
        for _ in range(2):
            platform.emit(job.id, None)
        assert (await first).seq == 4
        platform.finish(job.id)
        assert [event.seq async for event in watch] == [5]

        ended = job.watch(after_seq=100)
        assert [event async for event in ended] == []


@pytest.mark.parametrize("after_seq", [-1, 2**63])
async def test_after_seq_out_of_range_is_rejected(after_seq):
    async with Client("127.0.0.1:1") as client:
        message = f"^after_seq is {after_seq}; it must be 0 to"
        with pytest.raises(ValueError, match=message):
            client.watch_job("1", after_seq=after_seq)
        with pytest.raises(ValueError, match=message):
            client.submit_and_watch("a", after_seq=after_seq)
        with pytest.raises(ValueError, match=message):
            await anext(client.events("1", after_seq=after_seq))
        with pytest.raises(ValueError, match=message):
            await anext(client.output("1", after_seq=after_seq))
