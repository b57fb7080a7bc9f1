"""F28: tenants are suspended, resumed and deleted under load; another one asks for their jobs."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc
from grpc import aio
from sqlalchemy import text

from faults.cluster import Plan
from faults.evidence import StreamFilter
from faults.principals import CALL_S, Gateway, Principal, bearer, open_stream
from faults.scenario import Scenario
from faults.trial import Trial, until
from faults.watchers import Metadata
from headrace.v1 import job_service_pb2, tenant_service_pb2
from headrace_core.domain.access import Role, TenantState
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.access.deletion import REMOVED_TABLES
from headrace_core.store.sql.database import Database
from support.access import add_api_key

OTHER = "beta"
DELETED = "gamma"
SERVICES = 3
CHANGED_WITHIN_S = 5.0
_STEADY_S = 5.0
# Longest wait for a state change, in seconds.
_MAX_STATE_WAIT_S = 30.0
# A deletion waits up to a minute for the confirmation of running jobs.
_DELETED_WITHIN_S = 90.0
_SUSPENDED = "TENANT_SUSPENDED"


async def run(trial: Trial) -> None:
    async with AsyncExitStack() as stack:
        database = Database(trial.cluster.settings, application="trial")
        stack.push_async_callback(database.close)
        gateways = [
            Gateway(await stack.enter_async_context(aio.insecure_channel(target)))
            for target in trial.cluster.targets
        ]
        platform = bearer(await add_api_key(database, Role.PLATFORM))
        for tenant in (OTHER, DELETED):
            await _create_tenant(gateways[0], tenant, metadata=platform)
        own, others, deleted = [
            [
                Principal(
                    f"{tenant}-{number}",
                    await add_api_key(database, Role.OPERATOR, "payload:read", tenant=tenant),
                    gateways,
                )
                for number in range(SERVICES)
            ]
            for tenant in (DEFAULT_TENANT, OTHER, DELETED)
        ]
        for tenant, principals in ((DEFAULT_TENANT, own), (OTHER, others)):
            await _until_accepted(gateways, principals[0].credential)
            for principal in principals:
                watchers = trial.add_watchers(metadata=principal.metadata)
                # The streams of both tenants have the same filter.
                watchers.follow(principal.name, StreamFilter(tenant=tenant, types=("work",)))
                await watchers.wait_until_live()
        # Each stream follows the jobs of all principals, so it must be open before the first job.
        await _until_accepted(gateways, deleted[0].credential)
        for principal in (*own, *others, *deleted):
            principal.start()
            stack.push_async_callback(principal.stop)
        spy = _Spy(trial, gateways, own[0].credential)
        spying = asyncio.create_task(spy.run(), name="spy")
        stack.push_async_callback(end_tasks, spying)
        await asyncio.sleep(_STEADY_S)
        times: dict[TenantState, list[float]] = {
            TenantState.SUSPENDED: [],
            TenantState.ACTIVE: [],
        }
        for _ in range(2 if trial.short else 3):
            async with trial.fault(f"{OTHER} is suspended"):
                began = time.monotonic()
                gateway = trial.rng.choice(gateways)
                await _change_state(gateway, OTHER, TenantState.SUSPENDED, metadata=platform)
                await _until(gateways, others[0].credential, _SUSPENDED)
                times[TenantState.SUSPENDED].append(time.monotonic() - began)
                await asyncio.sleep(_STEADY_S)
                began = time.monotonic()
                gateway = trial.rng.choice(gateways)
                await _change_state(gateway, OTHER, TenantState.ACTIVE, metadata=platform)
                await _until_accepted(gateways, others[0].credential)
                times[TenantState.ACTIVE].append(time.monotonic() - began)
            await asyncio.sleep(_STEADY_S)
        await _delete_tenant(trial, gateways, database, deleted, metadata=platform)
        await end_tasks(spying)
        for state, seconds in times.items():
            trial.figure(
                f"slowest change of a tenant to {state}",
                max(seconds),
                "s",
                at_most=CHANGED_WITHIN_S,
            )
        trial.figure("calls of the other tenant", sum(one.calls for one in own), at_least=500)
        trial.figure("failed calls of the other tenant", _failures(own).total(), at_most=0)
        refused = _failures(others)
        trial.figure("refused calls of the suspended tenant", refused.total(), at_least=10)
        trial.figure(
            "its calls with a code except PERMISSION_DENIED",
            refused.total() - refused["PERMISSION_DENIED"],
            at_most=0,
        )
        trial.figure("calls about jobs of another tenant", spy.calls, at_least=100)
        trial.figure(
            f"responses that were not NOT_FOUND: {dict(spy.leaks) or 'none'}",
            spy.leaks.total(),
            at_most=0,
        )


async def _delete_tenant(
    trial: Trial,
    gateways: Sequence[Gateway],
    database: Database,
    principals: Sequence[Principal],
    *,
    metadata: Metadata,
) -> None:
    """Delete a tenant whose principals keep calling, and create a tenant with its name."""
    credential = principals[0].credential
    streams = [await open_stream(gateway, credential) for gateway in gateways]
    async with trial.fault(f"{DELETED} is deleted"):
        began = time.monotonic()
        await trial.rng.choice(gateways).tenants.DeleteTenant(
            tenant_service_pb2.DeleteTenantRequest(name=DELETED), metadata=metadata, timeout=CALL_S
        )
        await _until(gateways, credential, _SUSPENDED)
        refused = time.monotonic() - began
        async with asyncio.timeout(_MAX_STATE_WAIT_S):
            ends = await asyncio.gather(*streams)
        seconds = await until(lambda: _is_deleted(gateways[0], metadata), within=_DELETED_WITHIN_S)
    for principal in principals:
        await principal.stop()
    trial.figure("calls of the deleted tenant refused after", refused, "s", at_most=5.0)
    trial.figure(
        "slowest end of its streams", max(end for _, end in ends) - began, "s", at_most=5.0
    )
    codes = sorted({code for code, _ in ends} - {"PERMISSION_DENIED", "UNAUTHENTICATED"})
    trial.figure(f"unexpected codes of its streams: {codes}", len(codes), at_most=0)
    trial.figure("its jobs and rows removed after", seconds, "s", at_most=_DELETED_WITHIN_S)
    rows = await _count_rows(database, DELETED)
    trial.figure(f"its remaining rows: {rows or 'none'}", sum(rows.values()), at_most=0)
    failures = _failures(principals)
    others = failures.total() - failures["PERMISSION_DENIED"] - failures["UNAUTHENTICATED"]
    trial.figure("its refused calls", failures.total(), at_least=10)
    trial.figure("its calls that failed with another code", others, at_most=0)
    await _create_tenant(gateways[0], DELETED, metadata=metadata)
    new = await add_api_key(database, Role.OPERATOR, tenant=DELETED)
    await _until_accepted(gateways, new)
    accepted = sum([await _reason(gateway, credential) == "" for gateway in gateways])
    trial.figure(
        "gateways that accept an old key in a new tenant with its name", accepted, at_most=0
    )


async def _create_tenant(gateway: Gateway, tenant: str, *, metadata: Metadata) -> None:
    await gateway.tenants.CreateTenant(
        tenant_service_pb2.CreateTenantRequest(name=tenant), metadata=metadata, timeout=CALL_S
    )


async def _is_deleted(gateway: Gateway, metadata: Metadata) -> bool:
    try:
        await gateway.tenants.GetTenant(
            tenant_service_pb2.GetTenantRequest(name=DELETED), metadata=metadata, timeout=CALL_S
        )
    except aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


async def _count_rows(database: Database, tenant: str) -> dict[str, int]:
    """Return the number of rows of a tenant in each table that has some."""
    counts: dict[str, int] = {}
    async with database.statement() as conn:
        for name in ("jobs", "job_events", *REMOVED_TABLES):
            count = await conn.scalar(
                text(f"SELECT count(*) FROM {name} WHERE tenant = :tenant"), {"tenant": tenant}
            )
            counts |= {name: count} if count else {}
    return counts


class _Spy:
    """A principal that calls each RPC with the ids of another tenant's jobs.

    Attributes:
        calls: the number of calls.
        leaks: the calls that were not answered NOT_FOUND, by method and code.
    """

    def __init__(self, trial: Trial, gateways: Sequence[Gateway], credential: str) -> None:
        self.calls = 0
        self.leaks: Counter[str] = Counter()
        self._trial = trial
        self._gateways = itertools.cycle(gateways)
        self._metadata = bearer(credential)

    async def run(self) -> None:
        """Call until cancelled."""
        while True:
            jobs = await self._trial.records.jobs()
            foreign = [job.id for job in jobs.values() if job.tenant == OTHER]
            for job_id in self._trial.rng.sample(foreign, min(len(foreign), 5)):
                stubs = next(self._gateways).jobs
                for name, request in _requests(job_id):
                    await self._call(name, getattr(stubs, name), request)
            await asyncio.sleep(0.5)

    async def _call(self, name: str, method: Callable[..., Any], request: Any) -> None:
        self.calls += 1
        call = method(request, metadata=self._metadata, timeout=CALL_S)
        try:
            await (call.read() if name == "WatchJob" else call)
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                self.leaks[f"{name} {error.code().name}"] += 1
        else:
            self.leaks[f"{name} OK"] += 1
        finally:
            call.cancel()


def _requests(job_id: str) -> list[tuple[str, Any]]:
    return [
        ("GetJob", job_service_pb2.GetJobRequest(job_id=job_id)),
        ("CancelJob", job_service_pb2.CancelJobRequest(job_id=job_id)),
        ("RetryJob", job_service_pb2.RetryJobRequest(job_id=job_id)),
        ("ListJobEvents", job_service_pb2.ListJobEventsRequest(job_id=job_id)),
        ("ListJobOutput", job_service_pb2.ListJobOutputRequest(job_id=job_id)),
        ("WatchJob", job_service_pb2.WatchJobRequest(job_id=job_id)),
    ]


def _failures(principals: Sequence[Principal]) -> Counter[str]:
    return sum((principal.failures for principal in principals), start=Counter[str]())


async def _change_state(
    gateway: Gateway, tenant: str, state: TenantState, *, metadata: Metadata
) -> None:
    if state is TenantState.SUSPENDED:
        suspend = tenant_service_pb2.SuspendTenantRequest(name=tenant)
        await gateway.tenants.SuspendTenant(suspend, metadata=metadata, timeout=CALL_S)
    else:
        resume = tenant_service_pb2.ResumeTenantRequest(name=tenant)
        await gateway.tenants.ResumeTenant(resume, metadata=metadata, timeout=CALL_S)


async def _until_accepted(gateways: Sequence[Gateway], credential: str) -> None:
    await _until(gateways, credential, "")


async def _until(gateways: Sequence[Gateway], credential: str, reason: str) -> None:
    """Wait until each gateway answers with an error with this reason; an empty one is no error.

    Raises:
        TimeoutError: a gateway did not do so within `_MAX_STATE_WAIT_S`.
    """
    async with asyncio.timeout(_MAX_STATE_WAIT_S):
        for gateway in gateways:
            while await _reason(gateway, credential) != reason:
                await asyncio.sleep(0.05)


async def _reason(gateway: Gateway, credential: str) -> str:
    try:
        await gateway.jobs.GetStats(
            job_service_pb2.GetStatsRequest(), metadata=bearer(credential), timeout=CALL_S
        )
    except aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.PERMISSION_DENIED:
            return _SUSPENDED
        return error.code().name
    return ""


SCENARIO = Scenario(
    id="F28",
    title="tenants are suspended, resumed and deleted under load; another one asks for their jobs",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    plan=Plan(
        settings={"access_control": True},
        settings_by_service={"worker-3": {"worker_tenants": (OTHER, DELETED)}},
    ),
    usual=90,
    usual_short=70,
)
