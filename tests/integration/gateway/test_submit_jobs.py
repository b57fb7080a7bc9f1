"""SubmitJobs: correlation ids, deadlines of entries, and a gateway that is killed meanwhile."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import text

from headrace import Client, SubmitOutcome
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import (
    ListJobsRequest,
    SubmitJobRequest,
    SubmitJobsEntry,
    SubmitJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from headrace_standalone import services
from headrace_standalone.embedded.port import free_port
from support.server import Server
from support.settings import environment_of
from support.until import until_blocked

# They start in one iteration of the event loop, so they share a message.
SUBMITS = 40

# Each insert of jobs waits before its commit while a session holds this lock.
LOCK = 7_310_231
BLOCK_INSERTS = (
    f"""CREATE FUNCTION wait_for_lock() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NULL; END'""",
    """CREATE TRIGGER wait_for_lock AFTER INSERT ON jobs
        FOR EACH STATEMENT EXECUTE FUNCTION wait_for_lock()""",
)


async def test_entries_without_correlation_ids_have_their_own(jobs: JobServiceStub):
    entry = SubmitJobsEntry(request=SubmitJobRequest(job=JobSpec(type="email")))
    response = await jobs.SubmitJobs(SubmitJobsRequest(entries=[entry, entry]))
    ids = {result.response.job.correlation_id for result in response.results}
    assert len(ids) == 2
    assert all(ids)


async def test_entry_that_has_no_time_left_is_not_stored(jobs: JobServiceStub):
    request = SubmitJobRequest(job=JobSpec(type="email"))
    late = SubmitJobsEntry(request=request, timeout=Duration())
    response = await jobs.SubmitJobs(
        SubmitJobsRequest(entries=[late, SubmitJobsEntry(request=request)])
    )
    expired, stored = response.results
    assert expired.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    listed = (await jobs.ListJobs(ListJobsRequest())).jobs
    assert [job.id for job in listed] == [stored.response.job.id]


async def test_waiting_entry_ends_at_its_own_deadline(jobs: JobServiceStub, database: Database):
    request = SubmitJobRequest(job=JobSpec(type="email"))
    brief = SubmitJobsEntry(request=request, timeout=Duration(seconds=1))
    async with database.transaction() as holder:
        await holder.execute(text("LOCK TABLE jobs IN SHARE MODE"))
        call = jobs.SubmitJobs(SubmitJobsRequest(entries=[brief]))
        # The lock is held until the entry has ended.
        async with asyncio.timeout(60):
            response = await call
    assert response.results[0].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_submits_of_a_killed_gateway_are_stored_once(
    settings: Settings, gateway: Gateway, database: Database, tmp_path: Path
):
    address = f"127.0.0.1:{free_port()}"
    program = services.gateway(address=address, environment=environment_of(settings), grace=1.0)
    server = Server(program, log=tmp_path / "gateway.log")
    server.launch()
    try:
        await asyncio.to_thread(server.wait_until_serving)
        async with database.transaction() as conn:
            for statement in BLOCK_INSERTS:
                await conn.execute(text(statement))
        async with (
            Client([address, f"127.0.0.1:{gateway.port}"], timeout=60) as client,
            asyncio.timeout(60),
            asyncio.TaskGroup() as tasks,
        ):
            async with database.transaction() as holder:
                await holder.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
                submits = [
                    tasks.create_task(client.submit("email", {"n": n})) for n in range(SUBMITS)
                ]
                await until_blocked(database)
                await asyncio.to_thread(server.terminate, within=10, signum=signal.SIGKILL)
                # The client has repeated the submits at the other gateway.
                await until_blocked(database, sessions=2)
            # PostgreSQL now commits the killed gateway's statement, which has some of the jobs. No
            # client receives its result.
            handles = await asyncio.gather(*submits)
            stored = [job async for job in client.list(full=True)]
    finally:
        server.stop()
    assert SubmitOutcome.EXISTING in {handle.outcome for handle in handles}
    assert sorted(job.payload["n"] for job in stored) == list(range(SUBMITS))
    assert {job.id for job in stored} == {handle.id for handle in handles}
