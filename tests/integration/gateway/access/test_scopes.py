"""Scopes: a principal sees and changes only the jobs of its scope, in each RPC and stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest

from headrace.v1 import handler_service_pb2 as hs
from headrace.v1 import job_service_pb2 as js
from headrace.v1 import subscription_service_pb2 as ss
from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace_core.domain.access import Role
from headrace_core.domain.handler import HandlerSpec
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from support.access import Metadata, caller
from support.gateway import TIMEOUT, FakeWorker, rpc_error

INSIDE = JobSpec(type="invoice", queue="mail", labels={"user": "42", "team": "a"})
OUTSIDE = JobSpec(type="report", queue="slow", labels={"user": "7"})
SCOPES = ("queue:mail", "type:invoice", "label:user=42", "batch", "job")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def worker(database: Database) -> FakeWorker:
    worker = FakeWorker(database, HandlerSpec(type="invoice"), HandlerSpec(type="report"))
    await worker.register()
    return worker


@dataclass
class Tenant:
    """A tenant with one job inside a scope and one job outside it."""

    jobs: JobServiceStub
    subscriptions: SubscriptionServiceStub
    handlers: HandlerServiceStub
    admin: Metadata
    inside: str
    outside: str
    batch_id: str
    cursor: str

    def entry(self, kind: str) -> str:
        """Return a scope entry that includes the inside job and excludes the outside one."""
        return {"batch": f"batch:{self.batch_id}", "job": f"job:{self.inside}"}.get(kind, kind)


@pytest.fixture
async def tenant(channel: grpc.aio.Channel, database: Database, worker: FakeWorker) -> Tenant:
    admin = await caller(database, Role.ADMIN)
    jobs = JobServiceStub(channel)
    stream = jobs.WatchJobs(js.WatchJobsRequest(), metadata=admin)
    cursor = (await stream.read()).cursor
    stream.cancel()
    batch = await jobs.BatchSubmitJobs(js.BatchSubmitJobsRequest(jobs=[INSIDE]), metadata=admin)
    outside = await jobs.SubmitJob(js.SubmitJobRequest(job=OUTSIDE), metadata=admin)
    return Tenant(
        jobs=jobs,
        subscriptions=SubscriptionServiceStub(channel),
        handlers=HandlerServiceStub(channel),
        admin=admin,
        inside=batch.jobs[0].id,
        outside=outside.job.id,
        batch_id=batch.batch_id,
        cursor=cursor,
    )


async def status_of(call: grpc.aio.Call) -> grpc.StatusCode:
    """Return the status of a unary call, or of a stream at its first response."""
    try:
        if hasattr(call, "read"):
            await call.read()
            call.cancel()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("kind", SCOPES)
async def test_job_outside_the_scope_is_not_found(
    kind: str, tenant: Tenant, database: Database
) -> None:
    scoped = await caller(database, Role.OPERATOR, tenant.entry(kind), "payload:read")

    async def statuses(job_id: str) -> dict[str, grpc.StatusCode]:
        calls = {
            "GetJob": tenant.jobs.GetJob(js.GetJobRequest(job_id=job_id), metadata=scoped),
            "ListJobEvents": tenant.jobs.ListJobEvents(
                js.ListJobEventsRequest(job_id=job_id), metadata=scoped
            ),
            "ListJobOutput": tenant.jobs.ListJobOutput(
                js.ListJobOutputRequest(job_id=job_id), metadata=scoped
            ),
            "ListJobLogs": tenant.jobs.ListJobLogs(
                js.ListJobLogsRequest(job_id=job_id), metadata=scoped
            ),
            "WatchJobLogs": tenant.jobs.WatchJobLogs(
                js.WatchJobLogsRequest(job_id=job_id), metadata=scoped
            ),
            "WatchJob": tenant.jobs.WatchJob(js.WatchJobRequest(job_id=job_id), metadata=scoped),
        }
        codes = {name: await status_of(call) for name, call in calls.items()}
        cancel = tenant.jobs.CancelJob(js.CancelJobRequest(job_id=job_id), metadata=scoped)
        codes["CancelJob"] = await status_of(cancel)
        retry = tenant.jobs.RetryJob(js.RetryJobRequest(job_id=job_id), metadata=scoped)
        codes["RetryJob"] = await status_of(retry)
        return codes

    assert set((await statuses(tenant.outside)).values()) == {grpc.StatusCode.NOT_FOUND}
    assert set((await statuses(tenant.inside)).values()) == {grpc.StatusCode.OK}


@pytest.mark.parametrize("kind", SCOPES)
async def test_lists_and_counts_include_only_the_scope(
    kind: str, tenant: Tenant, database: Database
) -> None:
    scoped = await caller(database, Role.VIEWER, tenant.entry(kind))
    page = await tenant.jobs.ListJobs(js.ListJobsRequest(), metadata=scoped)
    assert [job.id for job in page.jobs] == [tenant.inside]
    page = await tenant.jobs.ListJobs(
        js.ListJobsRequest(filter=f'id = "{tenant.outside}"'), metadata=scoped
    )
    assert list(page.jobs) == []
    stats = await tenant.jobs.GetStats(js.GetStatsRequest(), metadata=scoped)
    assert [(queue.queue, queue.states[0].jobs) for queue in stats.queues] == [("mail", 1)]
    assert sum(state.jobs for state in stats.states) == 1


@pytest.mark.parametrize("kind", SCOPES)
async def test_stream_includes_only_the_scope(
    kind: str, tenant: Tenant, database: Database
) -> None:
    scoped = await caller(database, Role.VIEWER, tenant.entry(kind))
    stream = tenant.jobs.WatchJobs(js.WatchJobsRequest(cursor=tenant.cursor), metadata=scoped)
    seen: list[str] = []
    async with asyncio.timeout(TIMEOUT):
        # The outside job has ended before the inside one, and both after the start of the stream.
        for job_id in (tenant.outside, tenant.inside):
            await tenant.jobs.CancelJob(js.CancelJobRequest(job_id=job_id), metadata=tenant.admin)
        while len(seen) < 2:
            seen += [event.job_id for event in (await stream.read()).events]
    stream.cancel()
    assert seen == [tenant.inside] * 2


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        ("queue:mail", "queue:slow"),
        ("type:invoice", "type:report"),
        ("label:user=42", "jobs without the label user=42"),
    ],
)
async def test_submit_outside_the_scope_is_denied(
    entry: str, missing: str, tenant: Tenant, database: Database
) -> None:
    scoped = await caller(database, Role.OPERATOR, entry)
    await tenant.jobs.SubmitJob(js.SubmitJobRequest(job=INSIDE), metadata=scoped)
    for call in (
        tenant.jobs.SubmitJob(js.SubmitJobRequest(job=OUTSIDE), metadata=scoped),
        tenant.jobs.SubmitJob(
            js.SubmitJobRequest(job=OUTSIDE, validate_only=True), metadata=scoped
        ),
        tenant.jobs.BatchSubmitJobs(
            js.BatchSubmitJobsRequest(jobs=[INSIDE, OUTSIDE]), metadata=scoped
        ),
    ):
        error = await rpc_error(call)
        assert error.code is grpc.StatusCode.PERMISSION_DENIED
        assert error.metadata == {"right": missing}
    stored = await tenant.jobs.ListJobs(js.ListJobsRequest(), metadata=tenant.admin)
    # The batch was rejected as a whole.
    assert len(stored.jobs) == 3


async def test_entry_outside_the_scope_is_denied_alone(tenant: Tenant, database: Database) -> None:
    scoped = await caller(database, Role.OPERATOR, "queue:mail")
    entries = [
        js.SubmitJobsEntry(request=js.SubmitJobRequest(job=spec)) for spec in (INSIDE, OUTSIDE)
    ]
    response = await tenant.jobs.SubmitJobs(js.SubmitJobsRequest(entries=entries), metadata=scoped)
    assert response.results[0].response.job.id
    error = response.results[1].error
    assert error.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert "queue:slow" in error.message
    stored = await tenant.jobs.ListJobs(js.ListJobsRequest(), metadata=tenant.admin)
    # The tenant had two jobs.
    assert len(stored.jobs) == 3
    assert stored.jobs[0].id == response.results[0].response.job.id


async def test_watch_outside_the_scope_is_denied(tenant: Tenant, database: Database) -> None:
    scoped = await caller(database, Role.VIEWER, "queue:mail")
    request = js.WatchJobsRequest(filter=js.JobFilter(queues=["slow"]))
    error = await rpc_error(tenant.jobs.WatchJobs(request, metadata=scoped).read())
    assert error.code is grpc.StatusCode.PERMISSION_DENIED


async def test_subscription_outside_the_scope_is_hidden(tenant: Tenant, database: Database) -> None:
    scoped = await caller(database, Role.OPERATOR, "queue:mail")
    mail = ss.CreateSubscriptionRequest(name="mail", filter=js.JobFilter(queues=["mail"]))
    await tenant.subscriptions.CreateSubscription(mail, metadata=scoped)
    for number in range(20):
        other = ss.CreateSubscriptionRequest(name=f"all{number}")
        await tenant.subscriptions.CreateSubscription(other, metadata=tenant.admin)
    error = await rpc_error(
        tenant.subscriptions.CreateSubscription(
            ss.CreateSubscriptionRequest(name="mine"), metadata=scoped
        )
    )
    assert error.code is grpc.StatusCode.PERMISSION_DENIED
    page = await tenant.subscriptions.ListSubscriptions(
        ss.ListSubscriptionsRequest(), metadata=scoped
    )
    assert [subscription.name for subscription in page.subscriptions] == ["mail"]
    for name, expected in (("mail", grpc.StatusCode.OK), ("all1", grpc.StatusCode.NOT_FOUND)):
        get = tenant.subscriptions.GetSubscription(
            ss.GetSubscriptionRequest(name=name), metadata=scoped
        )
        watch = tenant.subscriptions.WatchSubscription(
            ss.WatchSubscriptionRequest(name=name), metadata=scoped
        )
        assert (await status_of(get), await status_of(watch)) == (expected, expected)
    delete = ss.DeleteSubscriptionRequest(name="all1")
    error = await rpc_error(tenant.subscriptions.DeleteSubscription(delete, metadata=scoped))
    assert error.code is grpc.StatusCode.NOT_FOUND


async def test_handlers_include_only_the_types_of_the_scope(
    tenant: Tenant, database: Database
) -> None:
    scoped = await caller(database, Role.VIEWER, "type:invoice")
    page = await tenant.handlers.ListHandlers(hs.ListHandlersRequest(), metadata=scoped)
    assert [handler.type for handler in page.handlers] == ["invoice"]
