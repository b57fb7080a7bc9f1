"""Submits, single jobs, pages and statistics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from grpc import StatusCode
from opentelemetry import trace

from headrace import (
    CallError,
    Client,
    InvalidRequest,
    JobEventType,
    JobFailed,
    JobNotFound,
    JobSpec,
    JobState,
    LogLevel,
    RequestIdConflict,
    StateConflict,
    SubmitOutcome,
)
from headrace.v1 import job_service_pb2 as pb
from headrace.v1.data_pb2 import Data
from headrace.v1.handler_service_pb2 import ListHandlersRequest
from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace.v1.job_pb2 import JOB_STATE_QUEUED, JOB_VIEW_BASIC
from headrace.v1.job_pb2 import JobSpec as Spec
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from support.contract import IDLE, SCRIPTED, Driver
from support.gateway import rpc_error

pytestmark = pytest.mark.asyncio(loop_scope="module")

T = JobEventType
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def history(client: Client, job_id: str, after_seq: int = 0) -> list[JobEventType]:
    return [event.type async for event in client.events(job_id, after_seq=after_seq)]


# Submits


async def test_submitted_job_is_queued(jobs: JobServiceStub):
    spec = Spec(type=IDLE, payload=Data(json=b'{"n": 1}'), labels={"a": "b"})
    response = await jobs.SubmitJob(pb.SubmitJobRequest(job=spec))
    job = response.job
    assert response.outcome == pb.SUBMIT_OUTCOME_CREATED
    assert (job.state, job.seq, job.attempt, job.queue) == (JOB_STATE_QUEUED, 1, 0, "default")
    assert (job.tenant, dict(job.labels)) == ("default", {"a": "b"})
    assert not job.HasField("payload")
    assert job.HasField("create_time")
    assert job.HasField("queue_time")
    assert not job.HasField("start_time")
    assert job.update_time == job.queue_time


async def test_same_request_id_returns_the_same_job(client: Client, name: str):
    first = await client.submit(IDLE, {"a": 1, "b": 2}, request_id=name)
    second = await client.submit(IDLE, {"b": 2, "a": 1}, request_id=name)
    assert (first.outcome, second.outcome) == (SubmitOutcome.CREATED, SubmitOutcome.EXISTING)
    assert first.id == second.id


async def test_payload_forms_have_the_same_content(jobs: JobServiceStub, name: str):
    exact = Data(json=b'{"n": 1.0}')
    plain = Data()
    plain.value.struct_value["n"] = 1
    responses = [
        await jobs.SubmitJob(
            pb.SubmitJobRequest(job=Spec(type=IDLE, payload=payload), request_id=name)
        )
        for payload in (exact, plain)
    ]
    assert responses[0].job.id == responses[1].job.id


async def test_same_request_id_with_different_content_conflicts(client: Client, name: str):
    job = await client.submit(IDLE, {"n": 1}, request_id=name)
    with pytest.raises(RequestIdConflict) as excinfo:
        await client.submit(IDLE, {"n": 2}, request_id=name)
    assert (excinfo.value.request_id, excinfo.value.job_id) == (name, job.id)
    assert excinfo.value.refusal.code == "ALREADY_EXISTS"


async def test_all_violations_are_reported(client: Client):
    with pytest.raises(InvalidRequest) as excinfo:
        await client.submit("Bad Type", queue="Bad Queue", priority=101, request_id="a\nb")
    fields = {violation.field for violation in excinfo.value.violations}
    assert fields == {"job.type", "job.queue", "job.priority", "request_id"}
    assert excinfo.value.refusal.reason == "INVALID_ARGUMENT"


async def test_missing_job_is_invalid(jobs: JobServiceStub):
    error = await rpc_error(jobs.SubmitJob(pb.SubmitJobRequest()))
    assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert error.violations.keys() == {"job"}


async def test_payload_that_is_not_json_is_invalid(jobs: JobServiceStub):
    spec = Spec(type=IDLE, payload=Data(json=b"{"))
    error = await rpc_error(jobs.SubmitJob(pb.SubmitJobRequest(job=spec)))
    assert error.violations.keys() == {"job.payload"}


async def test_use_call_deadline_without_deadline_is_invalid(jobs: JobServiceStub):
    request = pb.SubmitJobRequest(job=Spec(type=IDLE), use_call_deadline=True)
    error = await rpc_error(jobs.SubmitJob(request))
    assert error.violations.keys() == {"use_call_deadline"}


async def test_call_deadline_becomes_the_deadline(client: Client):
    before = datetime.now(UTC)
    job = await client.submit(IDLE, use_call_deadline=True, call_timeout=300)
    deadline = (await job.get()).deadline
    assert deadline is not None
    assert timedelta(seconds=250) < deadline - before < timedelta(seconds=310)


async def test_validate_only_stores_nothing(client: Client, name: str):
    would = await client.submit(SCRIPTED, validate_only=True, request_id=name)
    assert (would.id, would.outcome) == ("", SubmitOutcome.WOULD_RUN)
    validated = await client.submit(IDLE, validate_only=True, request_id=name)
    assert validated.outcome is SubmitOutcome.NO_WORKER
    created = await client.submit(IDLE, request_id=name)
    assert created.outcome is SubmitOutcome.CREATED
    repeated = await client.submit(IDLE, validate_only=True, request_id=name)
    assert (repeated.id, repeated.outcome) == (created.id, SubmitOutcome.EXISTING)
    with pytest.raises(RequestIdConflict):
        await client.submit(SCRIPTED, validate_only=True, request_id=name)


async def test_job_with_a_later_time_is_scheduled(client: Client):
    start_time = datetime.now(UTC) + timedelta(hours=1)
    job = await client.submit(IDLE, schedule_time=start_time)
    assert job.job is not None
    assert (job.job.state, job.job.schedule_time) == (JobState.SCHEDULED, start_time)
    [event] = [event async for event in client.events(job.id)]
    assert (event.state, event.schedule_time) == (JobState.SCHEDULED, start_time)


async def test_correlation_id_is_stored(client: Client):
    job = await client.submit(IDLE, correlation_id="order-17")
    assert (await job.get()).correlation_id == "order-17"


async def test_trace_context_of_a_submit_is_stored(jobs: JobServiceStub):
    metadata = (("traceparent", TRACEPARENT), ("tracestate", "vendor=1,other=2"))
    spec = Spec(type=IDLE)
    single = await jobs.SubmitJob(pb.SubmitJobRequest(job=spec), metadata=metadata)
    batch = await jobs.BatchSubmitJobs(
        pb.BatchSubmitJobsRequest(jobs=[spec, spec]), metadata=metadata
    )
    for job in (single.job, *batch.jobs):
        assert (job.traceparent, job.tracestate) == (TRACEPARENT, "vendor=1,other=2")
        stored = (await jobs.GetJob(pb.GetJobRequest(job_id=job.id))).job
        assert (stored.traceparent, stored.tracestate) == (TRACEPARENT, "vendor=1,other=2")
    without = (await jobs.SubmitJob(pb.SubmitJobRequest(job=spec))).job
    assert (without.traceparent, without.tracestate) == ("", "")


async def test_repeated_submit_keeps_the_first_trace_context(jobs: JobServiceStub, name: str):
    request = pb.SubmitJobRequest(job=Spec(type=IDLE), request_id=name)
    first = await jobs.SubmitJob(request, metadata=(("traceparent", TRACEPARENT),))
    repeated = await jobs.SubmitJob(request)
    assert repeated.job.id == first.job.id
    assert repeated.job.traceparent == TRACEPARENT


async def test_client_sends_the_context_of_the_current_span(client: Client):
    trace_id, span_id = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
    span = trace.NonRecordingSpan(
        trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=trace.TraceFlags(1))
    )
    with trace.use_span(span):
        single = await client.submit(IDLE, correlation_id="order-17")
        batch = await client.submit_many([JobSpec(IDLE)])
        async with client.submit_and_watch(IDLE) as watch:
            watched = (await anext(watch)).job_id
    for job_id in (single.id, batch[0].id, watched):
        assert (await client.get(job_id)).traceparent == TRACEPARENT
    assert (await (await client.submit(IDLE)).get()).traceparent == ""


# Batches


async def test_jobs_of_a_batch_keep_their_order(client: Client):
    batch = await client.submit_many([JobSpec(IDLE, labels={"n": str(n)}) for n in range(5)])
    assert batch.outcome is SubmitOutcome.CREATED
    assert [job.job and job.job.labels["n"] for job in batch] == ["0", "1", "2", "3", "4"]
    assert {(await job.get()).batch_id for job in batch} == {batch.id}


async def test_invalid_batch_stores_no_job(client: Client, name: str):
    specs = [JobSpec(IDLE, queue=name), JobSpec("Bad Type", queue=name)]
    with pytest.raises(InvalidRequest) as excinfo:
        await client.submit_many(specs)
    assert [violation.field for violation in excinfo.value.violations] == ["jobs[1].type"]
    assert [job async for job in client.list(f"queue = {name}")] == []


async def test_empty_batch_is_invalid(jobs: JobServiceStub):
    error = await rpc_error(jobs.BatchSubmitJobs(pb.BatchSubmitJobsRequest()))
    assert (error.code, error.violations.keys()) == (StatusCode.INVALID_ARGUMENT, {"jobs"})


async def test_batch_key_does_not_collide_with_job_keys(client: Client, name: str):
    one_job = await client.submit(IDLE, request_id=name)
    batch = await client.submit_many([JobSpec(IDLE)], request_id=name)
    repeated = await client.submit_many([JobSpec(IDLE)], request_id=name)
    assert batch[0].id != one_job.id
    assert (repeated.id, repeated[0].id) == (batch.id, batch[0].id)
    assert repeated.outcome is SubmitOutcome.EXISTING
    with pytest.raises(RequestIdConflict) as excinfo:
        await client.submit_many([JobSpec(IDLE), JobSpec(IDLE)], request_id=name)
    assert excinfo.value.batch_id == batch.id


# One job


async def test_unknown_job_is_not_found(client: Client):
    job_id = str(uuid4())
    for call in (
        client.get(job_id),
        client.cancel(job_id),
        client.retry(job_id),
        anext(client.events(job_id)),
        anext(client.output(job_id)),
        anext(client.watch_job(job_id)),
    ):
        with pytest.raises(JobNotFound) as excinfo:
            await call
        assert excinfo.value.job_id == job_id
        assert excinfo.value.refusal.code == "NOT_FOUND"


async def test_malformed_job_id_is_invalid(client: Client):
    for call in (client.get("x"), client.cancel("x"), client.retry("x")):
        with pytest.raises(InvalidRequest) as excinfo:
            await call
        assert [violation.field for violation in excinfo.value.violations] == ["job_id"]


async def test_successful_job_has_its_result(client: Client, driver: Driver):
    job = await client.submit(SCRIPTED, {"n": 1})
    await driver.start(job.id)
    running = await job.get()
    assert (running.state, running.attempt, running.payload) == (JobState.RUNNING, 1, {"n": 1})
    assert running.worker_id
    assert running.start_time
    await driver.progress(job.id, 0.5, "half")
    await driver.emit(job.id, {"piece": 1})
    await driver.succeed(job.id, {"sum": 3})
    assert await job.result(timeout=30) == {"sum": 3}
    finished_job = await job.get()
    assert (finished_job.state, finished_job.seq, finished_job.error) == (
        JobState.SUCCEEDED,
        5,
        None,
    )
    assert finished_job.progress is not None
    assert (finished_job.progress.fraction, finished_job.progress.counters) == (0.5, {"done": 1})
    # The two times come from separate readings of the clock.
    assert running.start_time <= finished_job.end_time <= finished_job.update_time
    assert await history(client, job.id) == [
        T.SUBMITTED,
        T.STARTED,
        T.PROGRESSED,
        T.OUTPUT,
        T.SUCCEEDED,
    ]
    assert await history(client, job.id, after_seq=3) == [T.OUTPUT, T.SUCCEEDED]
    [piece] = [piece async for piece in job.output()]
    assert (piece.seq, piece.attempt, piece.output) == (4, 1, {"piece": 1})


async def test_log_has_the_lines_of_all_attempts(client: Client, driver: Driver):
    job = await client.submit(SCRIPTED, {})
    await driver.start(job.id)
    await driver.log(job.id, "first")
    await driver.log(job.id, "second")
    await driver.fail_attempt(job.id, "try again")
    await driver.log(job.id, "third")
    await driver.succeed(job.id)
    lines = [line async for line in job.logs()]
    assert [(line.attempt, line.line, line.message) for line in lines] == [
        (1, 1, "first"),
        (1, 2, "second"),
        (2, 1, "third"),
    ]
    assert {(line.level, line.logger) for line in lines} == {(LogLevel.INFO, "contract")}
    assert all(line.log_time and not line.fields and not line.dropped_lines for line in lines)
    positions = [line.position for line in lines]
    assert positions == sorted(set(positions))
    rest = [line async for line in job.logs(after_position=positions[0])]
    assert rest == lines[1:]


async def test_pages_of_a_log_are_complete(jobs: JobServiceStub, client: Client, driver: Driver):
    job = await client.submit(SCRIPTED, {})
    await driver.start(job.id)
    for number in range(3):
        await driver.log(job.id, str(number))
    await driver.succeed(job.id)
    request = pb.ListJobLogsRequest(job_id=job.id, page_size=2)
    first = await jobs.ListJobLogs(request)
    assert [line.message for line in first.lines] == ["0", "1"]
    assert first.next_after_position == first.lines[-1].position
    request.after_position = first.next_after_position
    last = await jobs.ListJobLogs(request)
    assert ([line.message for line in last.lines], last.next_after_position) == (["2"], 0)


async def test_watched_log_ends_with_the_job(client: Client, driver: Driver):
    job = await client.submit(SCRIPTED, {})
    await driver.start(job.id)
    await driver.log(job.id, "stored")
    async with job.watch_logs() as watch:
        past = await anext(watch)
        await driver.log(job.id, "live")
        live = await anext(watch)
        assert (past.message, live.message) == ("stored", "live")
        assert watch.position == live.position
        await driver.succeed(job.id)
        assert [line async for line in watch] == []
    assert [line.message async for line in job.watch_logs(after_position=past.position)] == ["live"]


async def test_watched_log_of_an_ended_job_is_complete(client: Client, driver: Driver):
    job = await client.submit(SCRIPTED, {})
    await driver.start(job.id)
    await driver.log(job.id, "only")
    await driver.succeed(job.id)
    await job.result(timeout=30)
    assert [line.message async for line in job.watch_logs()] == ["only"]


async def test_log_of_an_unknown_job_is_not_found(client: Client):
    unknown = str(uuid4())
    with pytest.raises(JobNotFound):
        await anext(client.logs(unknown))
    with pytest.raises(JobNotFound):
        await anext(client.watch_logs(unknown))


async def test_failed_job_keeps_its_error(client: Client, driver: Driver):
    job = await client.submit(SCRIPTED, {})
    await driver.start(job.id)
    await driver.fail(job.id, "it broke")
    with pytest.raises(JobFailed) as excinfo:
        await job.result(timeout=30)
    assert (excinfo.value.error.type, excinfo.value.error.message) == ("ValueError", "it broke")
    [failed] = [event async for event in client.events(job.id, after_seq=2)]
    assert failed.error is not None
    assert (failed.error.message, failed.error.retryable) == ("it broke", False)


async def test_failed_attempt_is_retried(client: Client, driver: Driver):
    job = await client.submit(SCRIPTED, {})
    await driver.start(job.id)
    await driver.fail_attempt(job.id, "once")
    retried = await job.get()
    assert (retried.attempt, retried.retries_used) == (2, 1)
    assert retried.error is not None
    await driver.succeed(job.id)
    assert await job.result(timeout=30) is None
    events = [event async for event in client.events(job.id)]
    assert [event.type for event in events] == [
        T.SUBMITTED,
        T.STARTED,
        T.RETRY_SCHEDULED,
        T.DUE,
        T.STARTED,
        T.SUCCEEDED,
    ]
    assert [event.attempt for event in events] == [0, 1, 1, 1, 2, 2]
    assert events[2].schedule_time is not None
    assert events[2].error is not None
    assert events[2].error.retryable


async def test_waiting_job_is_cancelled_at_once(client: Client):
    job = await client.submit(IDLE)
    cancelled = await job.cancel()
    assert (cancelled.state, cancelled.seq) == (JobState.CANCELLED, 2)
    assert (await job.cancel()).seq == 2
    assert await history(client, job.id) == [T.SUBMITTED, T.CANCELLED]


async def test_events_contain_reasons(client: Client):
    job = await client.submit(IDLE)
    await job.cancel(reason="wrong recipient")
    await job.retry(reason="recipient corrected")
    events = [event async for event in client.events(job.id)]
    assert [event.reason for event in events] == ["", "wrong recipient", "recipient corrected"]
    with pytest.raises(InvalidRequest) as excinfo:
        await job.cancel(reason="r" * 501)
    assert [violation.field for violation in excinfo.value.violations] == ["reason"]


async def test_running_job_is_cancelled_after_the_request(client: Client, driver: Driver):
    job = await client.submit(SCRIPTED, {})
    await driver.start(job.id)
    requested = await job.cancel()
    assert requested.state is JobState.RUNNING
    assert requested.cancel_request_time
    await driver.end_cancelled(job.id)
    assert (await job.finished()).state is JobState.CANCELLED
    assert await history(client, job.id, 2) == [T.CANCEL_REQUESTED, T.CANCELLED]


async def test_cancel_of_an_ended_job_is_rejected(client: Client, driver: Driver):
    job = await client.submit(SCRIPTED, {})
    await driver.start(job.id)
    await driver.succeed(job.id)
    with pytest.raises(StateConflict) as excinfo:
        await job.cancel()
    assert (excinfo.value.job_id, excinfo.value.state) == (job.id, "SUCCEEDED")
    assert set(excinfo.value.allowed) == {"SCHEDULED", "QUEUED", "RETRYING", "RUNNING"}
    assert excinfo.value.refusal.code == "FAILED_PRECONDITION"


async def test_cancelled_job_is_requeued(client: Client):
    job = await client.submit(IDLE)
    await job.cancel()
    requeued = await job.retry()
    assert (requeued.state, requeued.seq, requeued.end_time) == (JobState.QUEUED, 3, None)
    assert requeued.cancel_request_time is None
    with pytest.raises(StateConflict) as excinfo:
        await job.retry()
    assert (excinfo.value.state, set(excinfo.value.allowed)) == ("QUEUED", {"FAILED", "CANCELLED"})


async def test_requeued_job_keeps_its_later_start_time(client: Client):
    start_time = datetime.now(UTC) + timedelta(hours=1)
    job = await client.submit(IDLE, schedule_time=start_time)
    await job.cancel()
    requeued = await job.retry()
    assert (requeued.state, requeued.schedule_time) == (JobState.SCHEDULED, start_time)


# Pages


async def test_pages_list_all_jobs_newest_first(jobs: JobServiceStub, client: Client, name: str):
    submitted = [(await client.submit(IDLE, queue=name)).id for _ in range(5)]
    request = pb.ListJobsRequest(filter=f"queue = {name}", page_size=2)
    ids, sizes = [], []
    while True:
        page = await jobs.ListJobs(request)
        ids += [job.id for job in page.jobs]
        sizes.append(len(page.jobs))
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
        # A new job does not shift the pages.
        await client.submit(IDLE, queue=name)
    assert ids == submitted[::-1]
    assert sizes == [2, 2, 1]


async def test_ids_are_found_by_a_range(client: Client):
    first, second = [(await client.submit(IDLE)).id for _ in range(2)]

    async def find(query: str) -> list[str]:
        return [job.id async for job in client.list(filter=query)]

    assert await find(f"id >= {first} AND id <= {first}") == [first]
    assert {first, second} <= set(await find(f"id >= {min(first, second)}"))


async def test_page_token_belongs_to_its_filter(jobs: JobServiceStub, client: Client, name: str):
    for _ in range(2):
        await client.submit(IDLE, queue=name)
    page = await jobs.ListJobs(pb.ListJobsRequest(filter=f"queue = {name}", page_size=1))
    for request in (
        pb.ListJobsRequest(filter=f"type = {IDLE}", page_token=page.next_page_token),
        pb.ListJobsRequest(page_token="bogus"),
    ):
        error = await rpc_error(jobs.ListJobs(request))
        assert (error.code, error.reason) == (StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_filter_selects_jobs(client: Client, name: str):
    one = await client.submit(IDLE, queue=name, labels={"team": "ml"}, request_id=name)
    two = await client.submit(IDLE, queue=name, labels={"team": "ops"})
    await two.cancel()
    for text, expected in (
        (f"queue = {name}", {one.id, two.id}),
        (f"queue = {name} AND state = CANCELLED", {two.id}),
        (f"queue = {name} AND (state = QUEUED OR state = CANCELLED)", {one.id, two.id}),
        (f'queue = {name} AND labels.team = "ml"', {one.id}),
        (f'request_id = "{name}"', {one.id}),
        (f"id = {two.id}", {two.id}),
    ):
        assert {job.id async for job in client.list(text)} == expected, text


async def test_malformed_filter_is_invalid(client: Client):
    for text in ("state = BOGUS", "nonsense"):
        with pytest.raises(CallError):
            await anext(client.list(text))


async def test_view_determines_the_documents(jobs: JobServiceStub, client: Client, name: str):
    job = await client.submit(IDLE, {"n": 1}, queue=name)
    basic = await jobs.GetJob(pb.GetJobRequest(job_id=job.id, view=JOB_VIEW_BASIC))
    assert not basic.job.HasField("payload")
    assert (await job.get()).payload == {"n": 1}
    [listed] = [job async for job in client.list(f"queue = {name}")]
    assert listed.payload is None
    [listed] = [job async for job in client.list(f"queue = {name}", full=True)]
    assert listed.payload == {"n": 1}


async def test_event_pages_contain_every_event(
    jobs: JobServiceStub, client: Client, driver: Driver
):
    job = await client.submit(SCRIPTED, {})
    await driver.start(job.id)
    for number in range(3):
        await driver.emit(job.id, number)
    await driver.succeed(job.id)
    request = pb.ListJobEventsRequest(job_id=job.id, page_size=4)
    first = await jobs.ListJobEvents(request)
    assert ([event.seq for event in first.events], first.next_after_seq) == ([1, 2, 3, 4], 4)
    request.after_seq = first.next_after_seq
    last = await jobs.ListJobEvents(request)
    assert ([event.seq for event in last.events], last.next_after_seq) == ([5, 6], 0)
    output = await jobs.ListJobOutput(pb.ListJobOutputRequest(job_id=job.id, page_size=2))
    assert ([piece.seq for piece in output.pieces], output.next_after_seq) == ([3, 4], 4)


async def test_negative_numbers_are_invalid(jobs: JobServiceStub, client: Client):
    job = await client.submit(IDLE)
    error = await rpc_error(jobs.ListJobs(pb.ListJobsRequest(page_size=-1)))
    assert error.violations.keys() == {"page_size"}
    request = pb.ListJobEventsRequest(job_id=job.id, after_seq=-1)
    error = await rpc_error(jobs.ListJobEvents(request))
    assert error.violations.keys() == {"after_seq"}
    logs = pb.ListJobLogsRequest(job_id=job.id, after_position=-1)
    error = await rpc_error(jobs.ListJobLogs(logs))
    assert error.violations.keys() == {"after_position"}
    watch = pb.WatchJobLogsRequest(job_id=job.id, after_position=-1)
    error = await rpc_error(jobs.WatchJobLogs(watch).read())
    assert error.violations.keys() == {"after_position"}


# The platform


async def test_stats_count_jobs(client: Client, name: str):
    await client.submit(IDLE, queue=name)
    await (await client.submit(IDLE, queue=name)).cancel()
    stats = await client.stats()
    [queue] = [queue for queue in stats.queues if queue.queue == name]
    assert queue.states == {JobState.QUEUED: 1, JobState.CANCELLED: 1}
    assert queue.age is not None
    assert [queue.queue for queue in stats.queues] == sorted(q.queue for q in stats.queues)
    assert IDLE in {one.type for one in stats.types}


async def test_handlers_of_live_workers_are_listed(handlers: HandlerServiceStub, client: Client):
    page = await handlers.ListHandlers(ListHandlersRequest())
    assert [handler.type for handler in page.handlers] == [SCRIPTED]
    assert (page.handlers[0].queue, page.handlers[0].live_workers) == ("contract", 1)
    assert page.next_page_token == ""
    assert await client.queue_serving("contract")


async def test_ping_succeeds(client: Client):
    assert await client.ping() > timedelta()
