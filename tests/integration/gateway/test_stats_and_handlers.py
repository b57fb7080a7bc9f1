"""GetStats and ListHandlers."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf import json_format

from headrace.v1.data_pb2 import DATA_ENCODING_JSON
from headrace.v1.handler_service_pb2 import ListHandlersRequest
from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import CancelJobRequest, GetStatsRequest, SubmitJobRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.retry import RetryPolicy
from headrace_core.store.sql.database import Database
from support.gateway import SQUARE_SUM, FakeWorker, rpc_error


async def test_stats_without_jobs_are_empty(jobs: JobServiceStub):
    stats = await jobs.GetStats(GetStatsRequest())
    assert not stats.states
    assert not stats.queues
    assert not stats.types
    assert stats.HasField("stats_time")


async def test_stats_count_jobs_by_state_queue_and_type(worker: FakeWorker, jobs: JobServiceStub):
    async def submit(job_type: str, queue: str) -> str:
        request = SubmitJobRequest(job=JobSpec(type=job_type, queue=queue))
        return (await jobs.SubmitJob(request)).job.id

    await submit("email", "mail")
    await submit("email", "bulk")
    cancelled = await submit("report", "bulk")
    await jobs.CancelJob(CancelJobRequest(job_id=cancelled))
    running = await submit("report", "slow")
    await worker.start_job(running)

    stats = json_format.MessageToDict(await jobs.GetStats(GetStatsRequest()))
    queued = {"state": "JOB_STATE_QUEUED", "jobs": "1"}
    ended = {"state": "JOB_STATE_CANCELLED", "jobs": "1"}
    runs = {"state": "JOB_STATE_RUNNING", "jobs": "1"}
    assert stats["states"] == [{**queued, "jobs": "2"}, runs, ended]
    ages = [queue.pop("age", None) for queue in stats["queues"]]
    assert [age is not None for age in ages] == [True, True, False]
    assert stats["queues"] == [
        {"queue": "bulk", "states": [queued, ended]},
        {"queue": "mail", "states": [queued]},
        {"queue": "slow", "states": [runs]},
    ]
    assert stats["types"] == [
        {"type": "email", "states": [{**queued, "jobs": "2"}]},
        {"type": "report", "states": [runs, ended]},
    ]


async def test_handler_list_without_workers_is_empty(handlers: HandlerServiceStub):
    assert not (await handlers.ListHandlers(ListHandlersRequest())).handlers


async def test_handlers_of_all_live_workers_are_listed(
    worker: FakeWorker, database: Database, handlers: HandlerServiceStub
):
    email = HandlerSpec(
        type="email",
        queue="mail",
        description="Sends a mail.",
        timeout=timedelta(seconds=30),
        retry=RetryPolicy(max_attempts=7),
    )
    await FakeWorker(database, email, SQUARE_SUM).register()
    listed = (await handlers.ListHandlers(ListHandlersRequest())).handlers
    assert [(handler.type, handler.live_workers) for handler in listed] == [
        ("email", 1),
        ("square_sum", 2),
    ]
    mail, numbers = listed
    assert (mail.queue, mail.description) == ("mail", "Sends a mail.")
    assert mail.timeout.ToTimedelta() == timedelta(seconds=30)
    assert mail.retry_policy.max_attempts == 7
    assert json_format.MessageToDict(numbers.payload_schema.value)["required"] == ["data"]


async def test_json_encoding_has_exact_schemas(worker: FakeWorker, handlers: HandlerServiceStub):
    request = ListHandlersRequest(data_encoding=DATA_ENCODING_JSON)
    (handler,) = (await handlers.ListHandlers(request)).handlers
    assert handler.payload_schema.json.decode() == SQUARE_SUM.payload_schema
    assert handler.result_schema.json.decode() == SQUARE_SUM.result_schema


async def test_unknown_encoding_is_invalid(handlers: HandlerServiceStub):
    error = await rpc_error(handlers.ListHandlers(ListHandlersRequest(data_encoding=99)))
    assert set(error.violations) == {"data_encoding"}
