"""Each service runs with a database role that has only the privileges of `store/grants.py`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.v1.access_service_pb2 import (
    ROLE_VIEWER,
    CreateApiKeyRequest,
    ListApiKeysRequest,
    RevokeApiKeyRequest,
    WhoAmIRequest,
)
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.data_pb2 import Data
from headrace.v1.handler_service_pb2 import ListHandlersRequest
from headrace.v1.handler_service_pb2_grpc import HandlerServiceStub
from headrace.v1.job_pb2 import JOB_STATE_CANCELLED, JOB_STATE_FAILED, JOB_STATE_SUCCEEDED, JobSpec
from headrace.v1.job_service_pb2 import (
    BatchSubmitJobsRequest,
    CancelJobRequest,
    GetJobRequest,
    GetStatsRequest,
    JobFilter,
    ListJobEventsRequest,
    ListJobLogsRequest,
    ListJobOutputRequest,
    ListJobsRequest,
    RetryJobRequest,
    SubmitJobRequest,
    WatchJobLogsRequest,
    WatchJobRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.session_service_pb2 import (
    ChangePasswordRequest,
    LoginRequest,
    LogoutRequest,
    RefreshSessionRequest,
)
from headrace.v1.session_service_pb2_grpc import SessionServiceStub
from headrace.v1.subscription_service_pb2 import (
    AckSubscriptionRequest,
    CreateSubscriptionRequest,
    DeleteSubscriptionRequest,
    ListSubscriptionsRequest,
    WatchSubscriptionRequest,
)
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace.v1.user_service_pb2 import (
    CreateUserRequest,
    DeleteUserRequest,
    ListUsersRequest,
    UpdateUserRequest,
)
from headrace.v1.user_service_pb2_grpc import UserServiceStub
from headrace_core.domain.access import Role
from headrace_core.domain.audit import AuditEntry
from headrace_core.domain.ids import uuid7
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.retention import Retention
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.audit import list_audit_chains, record_audit
from headrace_core.store.grants import Client, apply_grants, grant_script
from headrace_core.store.leadership import give_up_lead, take_lead
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.probe import check_writes
from headrace_core.store.workers import remove_lapsed
from headrace_gateway.service import Gateway
from headrace_scheduler.loops.prune import Prune
from headrace_scheduler.metrics import Gauges
from headrace_scheduler.service import Scheduler
from headrace_worker.api.registry import Registry
from headrace_worker.service import WorkerService
from support.access import Metadata
from support.access import caller as caller_metadata
from support.databases import Databases
from support.effects import effect_handlers
from support.handlers import handlers
from support.roles import Roles, service_roles
from support.settings import environment_of

# The limit of a wait, in seconds.
DEADLINE_S = 60


@pytest.fixture(scope="module")
def roles(postgres_url: str) -> Iterator[Roles]:
    with service_roles(postgres_url, name="grants") as roles:
        yield roles


@pytest.fixture
def database_url(databases: Databases, roles: Roles) -> Iterator[str]:
    with databases.fresh() as url:
        roles.grant(url)
        yield url


def all_handlers() -> Registry:
    registry = effect_handlers()
    for registered in handlers():
        registry.add(registered)
    return registry


class Caller:
    """Calls to the gateway as an admin of the default tenant."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self._metadata = metadata
        self.jobs = JobServiceStub(channel)
        self.subscriptions = SubscriptionServiceStub(channel)
        self.access = AccessServiceStub(channel)
        self.handlers = HandlerServiceStub(channel)
        self.sessions = SessionServiceStub(channel)
        self.users = UserServiceStub(channel)

    async def call(self, method: Callable[..., Any], request: Any) -> Any:
        return await method(request, metadata=self._metadata, timeout=DEADLINE_S)

    def watch(self, method: Callable[..., Any], request: Any) -> Any:
        return method(request, metadata=self._metadata, timeout=DEADLINE_S)

    async def submit(self, job_type: str, payload: Any = None, **spec: Any) -> str:
        job = JobSpec(type=job_type, payload=Data(json=json.dumps(payload or {}).encode()), **spec)
        response = await self.call(self.jobs.SubmitJob, SubmitJobRequest(job=job))
        return str(response.job.id)

    async def state(self, job_id: str) -> int:
        """Watch a job to its end; return its last state."""
        state = 0
        async for response in self.watch(self.jobs.WatchJob, WatchJobRequest(job_id=job_id)):
            for event in response.events:
                state = event.state
        return state


@asynccontextmanager
async def platform(settings: Settings, roles: Roles, database: Database) -> AsyncIterator[Caller]:
    """Run each service with its database role; yield the calls of an admin."""
    settings = settings.model_copy(update={"access_control": True})
    admin = await caller_metadata(database, Role.ADMIN, "payload:read")
    async with AsyncExitStack() as stack:
        scheduler = Scheduler(roles.settings(settings, Client.SCHEDULER))
        worker = WorkerService(roles.settings(settings, Client.WORKER), all_handlers())
        gateway = Gateway(roles.settings(settings, Client.GATEWAY))
        for service in (scheduler, worker, gateway):
            await service.start()
            stack.push_async_callback(service.stop)
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}")
        )
        yield Caller(channel, admin)


async def test_services_run_with_only_their_privileges(
    settings: Settings, roles: Roles, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    async with platform(settings, roles, database) as caller:
        await run_jobs(caller)
        await end_jobs_early(caller)
        await follow_jobs(caller)
        await manage_keys(caller)
        await manage_users(caller)
    output = "".join(capfd.readouterr())
    assert "permission denied" not in output
    assert "InsufficientPrivilege" not in output


async def run_jobs(caller: Caller) -> None:
    jobs = caller.jobs
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(milliseconds=50))
    for job_id in (
        await caller.submit("t.echo", {"a": 1}),
        await caller.submit("t.echo", {"a": 1}, schedule_time=soon),
        await caller.submit("t.flaky", {"number": 1}),
        await caller.submit("t.process", {"number": 1}),
        await caller.submit("t.output", {"number": 3}),
    ):
        assert await caller.state(job_id) == JOB_STATE_SUCCEEDED
    assert (await caller.call(jobs.ListJobOutput, ListJobOutputRequest(job_id=job_id))).pieces
    logged = await caller.submit("t.logs", "x")
    assert await caller.state(logged) == JOB_STATE_SUCCEEDED
    assert (await caller.call(jobs.ListJobLogs, ListJobLogsRequest(job_id=logged))).lines
    async for response in caller.watch(jobs.WatchJobLogs, WatchJobLogsRequest(job_id=logged)):
        assert response.lines
    assert (await caller.call(jobs.ListJobEvents, ListJobEventsRequest(job_id=job_id))).events
    assert (await caller.call(jobs.GetJob, GetJobRequest(job_id=job_id))).job.id == job_id
    batch = await caller.call(
        jobs.BatchSubmitJobs,
        BatchSubmitJobsRequest(
            jobs=[JobSpec(type="t.echo", payload=Data(json=b"{}"))] * 3, request_id="batch"
        ),
    )
    for job in batch.jobs:
        assert await caller.state(job.id) == JOB_STATE_SUCCEEDED
    assert len((await caller.call(jobs.ListJobs, ListJobsRequest())).jobs) >= 8
    assert (await caller.call(jobs.GetStats, GetStatsRequest())).states
    assert (await caller.call(caller.handlers.ListHandlers, ListHandlersRequest())).handlers


async def end_jobs_early(caller: Caller) -> None:
    jobs = caller.jobs
    running = await caller.submit("t.forever")
    async for response in caller.watch(jobs.WatchJob, WatchJobRequest(job_id=running)):
        if any(event.attempt for event in response.events):
            break
    await caller.call(jobs.CancelJob, CancelJobRequest(job_id=running))
    assert await caller.state(running) == JOB_STATE_CANCELLED
    waiting = await caller.submit("test.unserved")
    await caller.call(jobs.CancelJob, CancelJobRequest(job_id=waiting))
    assert await caller.state(waiting) == JOB_STATE_CANCELLED
    failed = await caller.submit("t.hopeless")
    assert await caller.state(failed) == JOB_STATE_FAILED
    await caller.call(jobs.RetryJob, RetryJobRequest(job_id=failed))
    assert await caller.state(failed) == JOB_STATE_FAILED
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(milliseconds=500))
    expiring = await caller.submit("test.unserved", deadline=soon)
    assert await caller.state(expiring) == JOB_STATE_FAILED


async def follow_jobs(caller: Caller) -> None:
    service = caller.subscriptions
    job_filter = JobFilter(types=["t.echo"])
    await caller.call(
        service.CreateSubscription, CreateSubscriptionRequest(name="all", filter=job_filter)
    )
    job_id = await caller.submit("t.echo", {"b": 2})
    watch = caller.watch(service.WatchSubscription, WatchSubscriptionRequest(name="all"))
    async for response in watch:
        if any(event.job_id == job_id for event in response.events):
            request = AckSubscriptionRequest(name="all", cursor=response.cursor)
            await caller.call(service.AckSubscription, request)
            break
    watch.cancel()
    assert (await caller.call(service.ListSubscriptions, ListSubscriptionsRequest())).subscriptions
    await caller.call(service.DeleteSubscription, DeleteSubscriptionRequest(name="all"))
    stream = caller.watch(caller.jobs.WatchJobs, WatchJobsRequest(filter=job_filter))
    await stream.read()
    stream.cancel()


async def manage_keys(caller: Caller) -> None:
    access = caller.access
    created = await caller.call(
        access.CreateApiKey, CreateApiKeyRequest(principal="tv", role=ROLE_VIEWER)
    )
    assert (await caller.call(access.ListApiKeys, ListApiKeysRequest())).api_keys
    await caller.call(access.RevokeApiKey, RevokeApiKeyRequest(id=created.api_key.id))
    assert (await caller.call(access.WhoAmI, WhoAmIRequest())).tenant == DEFAULT_TENANT


async def manage_users(caller: Caller) -> None:
    users, sessions = caller.users, caller.sessions
    created = await caller.call(users.CreateUser, CreateUserRequest(name="ada"))
    assert (await caller.call(users.ListUsers, ListUsersRequest())).users
    login = LoginRequest(username="ada", password=created.password)
    tokens = (await sessions.Login(login)).tokens
    change = ChangePasswordRequest(
        current_password=created.password, new_password="an entirely different secret"
    )
    await sessions.ChangePassword(
        change, metadata=[("authorization", f"Bearer {tokens.access_token}")]
    )
    refresh = RefreshSessionRequest(refresh_token=tokens.refresh_token)
    tokens = (await sessions.RefreshSession(refresh)).tokens
    await sessions.Logout(LogoutRequest(refresh_token=tokens.refresh_token))
    await caller.call(users.UpdateUser, UpdateUserRequest(name="ada", disabled=True))
    await caller.call(users.DeleteUser, DeleteUserRequest(name="ada"))


async def test_scheduler_role_can_prune(
    settings: Settings, roles: Roles, database: Database
) -> None:
    async with platform(settings, roles, database) as caller:
        for number in range(3):
            assert await caller.state(await caller.submit("t.output", {"number": number}))
    async with database.transaction() as conn:
        await record_audit(conn, AuditEntry(tenant=DEFAULT_TENANT, method="test"))
    scheduler = Database(roles.settings(settings, Client.SCHEDULER), application="test")
    try:
        holder_id = uuid7()
        async with scheduler.statement() as conn:
            term = await take_lead(conn, holder=holder_id, lease=timedelta(seconds=60))
            assert term is not None
            await remove_lapsed(conn, term=term, older_than=timedelta())
        gauges = Gauges()
        await Prune(
            database=scheduler,
            term=term,
            gauges=gauges,
            retention=Retention(default=timedelta()),
            subscription_retention=timedelta(),
            audit_retention=timedelta(),
        ).run_once()
        assert gauges.pruned == 3
        async with database.statement() as conn:
            assert [chain.start_seq for chain in await list_audit_chains(conn)] == [1]
        async with scheduler.statement() as conn:
            await give_up_lead(conn, holder=holder_id)
    finally:
        await scheduler.close()


async def test_handler_role_completes_its_job(
    settings: Settings, roles: Roles, database: Database, database_url: str
) -> None:
    name = roles.names[Client.HANDLER]
    owner = await asyncpg.connect(database_url)
    await owner.execute(f"""
        CREATE TABLE public.effects (job_id uuid, attempt integer);
        GRANT SELECT, INSERT ON public.effects TO {name};
    """)
    async with platform(settings, roles, database) as caller:
        job = await caller.submit("e.loop", {"url": roles.url(database_url, Client.HANDLER)})
        assert await caller.state(job) == JOB_STATE_SUCCEEDED
    assert await owner.fetchval("SELECT count(*) FROM public.effects") == 1
    await owner.close()


# Statements of a compromised service, which its role must reject.
FORBIDDEN = [
    (Client.GATEWAY, "DELETE FROM headrace.jobs"),
    (Client.GATEWAY, "UPDATE headrace.jobs SET payload = '1'"),
    (Client.GATEWAY, "UPDATE headrace.jobs SET tenant = 'other'"),
    (Client.GATEWAY, "UPDATE headrace.job_events SET type = 'succeeded'"),
    (Client.GATEWAY, "DELETE FROM headrace.job_events"),
    (Client.GATEWAY, "UPDATE headrace.installation SET secret = ''"),
    (Client.GATEWAY, "UPDATE headrace.api_keys SET role = 'platform'"),
    (Client.GATEWAY, "UPDATE headrace.leadership SET term = 1"),
    (Client.GATEWAY, "UPDATE headrace.audit_log SET allowed = true"),
    (Client.GATEWAY, "DELETE FROM headrace.audit_log"),
    (Client.GATEWAY, "UPDATE headrace.audit_chains SET seq = 0"),
    (Client.GATEWAY, "SELECT headrace.prune_audit('', now(), 1)"),
    (Client.GATEWAY, "CREATE TABLE headrace.more (id integer)"),
    (Client.GATEWAY, "SELECT headrace.complete(gen_random_uuid(), 1, 'null')"),
    (Client.GATEWAY, "DELETE FROM headrace.audit_log"),
    (Client.GATEWAY, "UPDATE headrace.audit_log SET principal = 'eve'"),
    (Client.GATEWAY, "INSERT INTO headrace.audit_log SELECT * FROM headrace.audit_log"),
    (Client.GATEWAY, "UPDATE headrace.audit_chains SET seq = 1"),
    (Client.GATEWAY, "SELECT headrace.prune_audit('default', now(), 1)"),
    (Client.SCHEDULER, "DELETE FROM headrace.audit_log"),
    (Client.SCHEDULER, "SELECT payload FROM headrace.jobs"),
    (Client.SCHEDULER, "SELECT output FROM headrace.job_events"),
    (Client.SCHEDULER, "DELETE FROM headrace.audit_log"),
    (Client.SCHEDULER, "SELECT secret FROM headrace.installation"),
    (Client.SCHEDULER, "SELECT * FROM headrace.api_keys"),
    (Client.SCHEDULER, "SELECT * FROM headrace.signing_keys"),
    (Client.SCHEDULER, "INSERT INTO headrace.jobs SELECT * FROM headrace.jobs"),
    (Client.WORKER, "SELECT secret FROM headrace.installation"),
    (Client.WORKER, "SELECT * FROM headrace.api_keys"),
    (Client.WORKER, "SELECT * FROM headrace.subscriptions"),
    (Client.WORKER, "INSERT INTO headrace.jobs SELECT * FROM headrace.jobs"),
    (Client.WORKER, "UPDATE headrace.jobs SET payload = '1'"),
    (Client.WORKER, "UPDATE headrace.jobs SET tenant = 'other'"),
    (Client.WORKER, "DELETE FROM headrace.jobs"),
    (Client.WORKER, "DELETE FROM headrace.job_events"),
    (Client.OPS, "SELECT secret_hash FROM headrace.api_keys"),
    (Client.OPS, "SELECT seed FROM headrace.signing_keys"),
    (Client.OPS, "UPDATE headrace.jobs SET state = 'queued'"),
    (Client.OPS, "SELECT headrace.complete(gen_random_uuid(), 1, 'null')"),
    (Client.HANDLER, "SELECT * FROM headrace.jobs"),
    (Client.HANDLER, "UPDATE headrace.jobs SET state = 'queued'"),
    (Client.HANDLER, "SELECT * FROM headrace.installation"),
]


async def test_role_rejects_other_statements(roles: Roles, database_url: str) -> None:
    connections = {
        client: await asyncpg.connect(roles.url(database_url, client)) for client in Client
    }
    for client, statement in FORBIDDEN:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connections[client].execute(statement)
    for connection in connections.values():
        await connection.close()


async def test_health_probes_require_only_the_privileges(settings: Settings, roles: Roles) -> None:
    for client in (Client.GATEWAY, Client.SCHEDULER, Client.WORKER):
        database = Database(roles.settings(settings, client), application="test")
        await check_writes(database, submits=client is Client.GATEWAY)
        await database.close()


async def test_grants_revoke_other_privileges(roles: Roles, database_url: str) -> None:
    worker = roles.names[Client.WORKER]
    owner = await asyncpg.connect(database_url)
    await owner.execute(f"""
        GRANT ALL ON ALL TABLES IN SCHEMA headrace TO {worker};
        GRANT UPDATE (payload) ON headrace.jobs TO {worker};
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA headrace TO {worker};
    """)
    before = await owner.fetchval(_PRIVILEGES, worker)
    await asyncio.to_thread(roles.grant, database_url)
    after = await owner.fetchval(_PRIVILEGES, worker)
    await asyncio.to_thread(roles.grant, database_url)
    assert after == await owner.fetchval(_PRIVILEGES, worker)
    assert after != before
    await owner.close()


_PRIVILEGES = """
    SELECT array_agg((table_name, column_name, privilege_type)::text
                     ORDER BY table_name, column_name, privilege_type)
    FROM (
        SELECT table_name, column_name, privilege_type FROM information_schema.column_privileges
        WHERE grantee = $1
        UNION ALL
        SELECT table_name, '', privilege_type FROM information_schema.table_privileges
        WHERE grantee = $1
        UNION ALL
        SELECT routine_name, '', privilege_type FROM information_schema.routine_privileges
        WHERE grantee = $1
    ) p
"""


async def test_role_that_owns_tables_is_rejected(settings: Settings, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    owner = await connection.fetchval("SELECT current_user")
    await connection.close()
    with pytest.raises(asyncpg.RaiseError, match="choose another role"):
        await apply_grants(settings, {Client.GATEWAY: (owner,)})


def run_grants(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace_core", "grants", *arguments],
        env=environment_of(settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_command_prints_the_script_and_applies_it(
    settings: Settings, roles: Roles, database_url: str
) -> None:
    name = f"{roles.names[Client.GATEWAY]}_new"
    output = await asyncio.to_thread(run_grants, settings, "--gateway", name)
    schema = settings.database_schema
    assert output.stdout == grant_script({Client.GATEWAY: (name,)}, schema=schema)
    owner = await asyncpg.connect(database_url)
    try:
        applied = await asyncio.to_thread(run_grants, settings, "--gateway", name, "--apply")
        assert applied.returncode == 0, applied.stderr
        for table, allowed in (("jobs", True), ("leadership", False)):
            query = "SELECT has_table_privilege($1, $2, 'SELECT')"
            assert await owner.fetchval(query, name, f"headrace.{table}") is allowed
    finally:
        await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
        await owner.close()


async def test_command_without_roles_is_rejected(settings: Settings) -> None:
    refused = await asyncio.to_thread(run_grants, settings)
    assert refused.returncode == 2
    assert "grants needs at least one role" in refused.stderr


async def test_operator_role_runs_verify_and_doctor(settings: Settings, roles: Roles) -> None:
    limited = roles.settings(settings, Client.OPS)
    for command in ("verify", "doctor"):
        completed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "headrace", command],
            env=environment_of(limited),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert "permission denied" not in completed.stdout + completed.stderr
    output = " ".join(completed.stdout.split())
    assert "ok writes: not checked, because this role may not store jobs" in output
