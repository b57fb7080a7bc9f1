"""MonitorService shows a principal only its tenant, and the queues and types of its scope."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from headrace.v1 import monitor_service_pb2 as ms
from headrace.v1.access_service_pb2 import MintWatchTokenRequest
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import SubmitJobRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.monitor_service_pb2_grpc import MonitorServiceStub
from headrace_core.domain.access import Role
from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.ids import WorkerId, parse_id
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from support import workers
from support.access import add_tenant, bearer, caller
from support.gateway import TIMEOUT, rpc_error


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"access_control": True})


@pytest.fixture
async def gateway(settings: Settings, database: Database) -> AsyncIterator[Gateway]:
    await add_tenant(database, "other")
    gateway = Gateway(settings)
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
def monitor(channel: grpc.aio.Channel) -> MonitorServiceStub:
    return MonitorServiceStub(channel)


@pytest.fixture
async def shared_worker(channel: grpc.aio.Channel, database: Database) -> WorkerId:
    """A worker of two tenants, which runs an invoice job of each tenant and one report job."""
    worker_id = await workers.register(
        database, "invoice", "report", queues=["mail", "slow"], tenant=["default", "other"]
    )
    admin = await caller(database, Role.ADMIN)
    other = await caller(database, Role.ADMIN, tenant="other")
    api = JobServiceStub(channel)
    for metadata, job_type, queue in (
        (admin, "invoice", "mail"),
        (admin, "report", "slow"),
        (other, "invoice", "mail"),
    ):
        request = SubmitJobRequest(job=JobSpec(type=job_type, queue=queue))
        response = await api.SubmitJob(request, metadata=metadata, timeout=TIMEOUT)
        await workers.claim(database, worker_id, [AttemptKey(parse_id(response.job.id), 1)])
    return worker_id


@pytest.mark.parametrize(
    ("scope", "visible"),
    [
        ((), (["invoice", "report"], ["mail", "slow"])),
        (("type:invoice",), (["invoice"], ["mail", "slow"])),
        (("queue:slow",), (["invoice", "report"], ["slow"])),
        (("queue:mail", "type:report"), (["report"], ["mail"])),
    ],
)
async def test_scope_limits_workers_and_queues(
    scope: tuple[str, ...],
    visible: tuple[list[str], list[str]],
    monitor: MonitorServiceStub,
    shared_worker: WorkerId,
    database: Database,
) -> None:
    types, queues = visible
    metadata = await caller(database, Role.VIEWER, *scope)
    request = ms.ListWorkersRequest()
    [worker] = (await monitor.ListWorkers(request, metadata=metadata, timeout=TIMEOUT)).workers
    assert (worker.id, list(worker.types)) == (str(shared_worker), types)
    assert list(worker.queues) == queues
    inside = {("invoice", "mail"), ("report", "slow")}
    lanes = {lane for lane in inside if lane[0] in types and lane[1] in queues}
    assert {(job.type, job.queue) for job in worker.running_jobs} == lanes
    assert worker.busy_slots == len(lanes)
    listed = await monitor.ListQueues(ms.ListQueuesRequest(), metadata=metadata, timeout=TIMEOUT)
    assert [queue.queue for queue in listed.queues] == queues
    assert {queue.queue for queue in listed.queues if queue.states} == {queue for _, queue in lanes}


async def test_worker_outside_the_scope_is_not_listed(
    monitor: MonitorServiceStub, shared_worker: WorkerId, database: Database
) -> None:
    for scope in ("type:other", "queue:other"):
        metadata = await caller(database, Role.VIEWER, scope)
        request = ms.ListWorkersRequest()
        listed = await monitor.ListWorkers(request, metadata=metadata, timeout=TIMEOUT)
        assert not listed.workers


async def test_only_the_platform_sees_other_tenants_of_a_worker(
    monitor: MonitorServiceStub, shared_worker: WorkerId, database: Database
) -> None:
    for role, tenants in ((Role.ADMIN, ["default"]), (Role.PLATFORM, ["default", "other"])):
        metadata = await caller(database, role)
        request = ms.ListWorkersRequest()
        [worker] = (await monitor.ListWorkers(request, metadata=metadata, timeout=TIMEOUT)).workers
        assert list(worker.tenants) == tenants
        assert worker.busy_slots == 2


async def test_scope_limits_the_overview(
    monitor: MonitorServiceStub, shared_worker: WorkerId, database: Database
) -> None:
    for scope, queues in (
        ((), ["mail", "slow"]),
        (("type:invoice",), ["mail"]),
        (("queue:slow",), ["slow"]),
    ):
        metadata = await caller(database, Role.VIEWER, *scope)
        call = monitor.WatchOverview(ms.WatchOverviewRequest(), metadata=metadata)
        overview = (await call.read()).overview
        call.cancel()
        assert [queue.queue for queue in overview.queues if queue.states] == queues
        assert overview.busy_slots == len(queues)
        assert overview.wait.count == len(queues)
        window = overview.rates[1].window.ToNanoseconds() / 1e9
        assert overview.rates[1].started * window == pytest.approx(len(queues))


@pytest.mark.parametrize("rpc", ["ListWorkers", "ListQueues", "WatchOverview", "GetHistory"])
async def test_narrower_scopes_and_watch_tokens_are_denied(
    rpc: str, monitor: MonitorServiceStub, channel: grpc.aio.Channel, database: Database
) -> None:
    admin = await caller(database, Role.ADMIN)
    access = AccessServiceStub(channel)
    watch_token = await access.MintWatchToken(
        MintWatchTokenRequest(labels={"user": "42"}), metadata=admin, timeout=TIMEOUT
    )
    job_id = "0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15"
    entries = ("label:user=42", f"batch:{job_id}", f"job:{job_id}")
    scoped = [await caller(database, Role.VIEWER, entry) for entry in entries]
    for metadata in (bearer(watch_token.token), *scoped):
        call = getattr(monitor, rpc)(getattr(ms, f"{rpc}Request")(), metadata=metadata)
        received = call.read() if hasattr(call, "read") else call
        assert (await rpc_error(received)).code is grpc.StatusCode.PERMISSION_DENIED
