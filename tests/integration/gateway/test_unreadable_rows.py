"""A gateway and a worker on a database with unreadable rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from uuid import UUID

import grpc.aio
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from headrace.v1.job_pb2 import JOB_STATE_CANCELLED
from headrace.v1.job_service_pb2 import (
    WATCH_MARK_CAUGHT_UP,
    CancelJobRequest,
    GetJobRequest,
    GetStatsRequest,
    ListJobEventsRequest,
    ListJobsRequest,
    WatchJobRequest,
    WatchJobsRequest,
)
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.subscription_service_pb2 import (
    CreateSubscriptionRequest,
    ListSubscriptionsRequest,
    WatchSubscriptionRequest,
)
from headrace.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from headrace_core.domain.ids import JobId
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from headrace_worker.api.registry import RegisteredHandler, Registry
from support.databases import Databases
from support.handlers import handlers as all_handlers
from support.platform import platform
from support.poison import POISONED, UNSTARTABLE, poisoned

Ids = dict[str, UUID]


@pytest.fixture
def poisoned_database(databases: Databases) -> Iterator[tuple[str, Ids]]:
    with poisoned(databases) as database_and_ids:
        yield database_and_ids


@pytest.fixture
def ids(poisoned_database: tuple[str, Ids]) -> Ids:
    return poisoned_database[1]


@pytest.fixture
def settings(settings: Settings, poisoned_database: tuple[str, Ids]) -> Settings:
    """Settings on the database with unreadable rows."""
    return settings.model_copy(update={"database_url": SecretStr(poisoned_database[0])})


@pytest.fixture
async def channel(settings: Settings) -> AsyncIterator[grpc.aio.Channel]:
    gateway = Gateway(settings)
    await gateway.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        yield channel
    await gateway.stop()


async def test_every_call_returns_despite_unreadable_rows(
    channel: grpc.aio.Channel, ids: Ids
) -> None:
    jobs = JobServiceStub(channel)
    async with asyncio.timeout(60):
        listed = (await jobs.ListJobs(ListJobsRequest(page_size=1000))).jobs
        assert {job.id for job in listed} == {str(job_id) for job_id in ids.values()}
        fields = {job.type: list(job.unreadable_fields) for job in listed}
        assert fields["deadline.late"] == ["deadline"]
        assert fields["due.never"] == ["schedule_time"]
        assert fields["retry.text"] == ["retry_policy"]
        assert fields["sound.one"] == []
        for name, job_id in ids.items():
            job = (await jobs.GetJob(GetJobRequest(job_id=str(job_id)))).job
            assert bool(job.unreadable_fields) == (name in POISONED and name != "rank.nan")
            events = await jobs.ListJobEvents(ListJobEventsRequest(job_id=str(job_id)))
            assert [event.seq for event in events.events] == [1]
        await jobs.GetStats(GetStatsRequest())


async def test_streams_send_the_events_of_unreadable_jobs(
    channel: grpc.aio.Channel, ids: Ids, settings: Settings
) -> None:
    jobs, subscriptions = JobServiceStub(channel), SubscriptionServiceStub(channel)
    names = ("due.never", "labels.numbers", "deadline.late", "create.never", "sound.one")
    unreadable_ids = {str(ids[name]) for name in names}
    async with asyncio.timeout(60):
        for name in ("s", "bad"):
            await subscriptions.CreateSubscription(CreateSubscriptionRequest(name=name))
        database = Database(settings, application="test")
        async with database.statement() as connection:
            damage = """UPDATE subscriptions SET filter = '{"queues": 7}' WHERE name = 'bad'"""
            await connection.execute(text(damage))
        await database.close()
        listed = await subscriptions.ListSubscriptions(ListSubscriptionsRequest())
        assert {one.name: list(one.unreadable_fields) for one in listed.subscriptions} == {
            "s": [],
            "bad": ["filter"],
        }
        watch = jobs.WatchJobs(WatchJobsRequest())
        while (await watch.read()).mark != WATCH_MARK_CAUGHT_UP:
            pass
        durable = subscriptions.WatchSubscription(WatchSubscriptionRequest(name="s"))
        one = jobs.WatchJob(WatchJobRequest(job_id=str(ids["due.never"])))
        [event] = (await one.read()).events
        assert (event.seq, event.HasField("schedule_time")) == (1, False)
        for name in names:
            job = (await jobs.CancelJob(CancelJobRequest(job_id=str(ids[name])))).job
            assert job.state == JOB_STATE_CANCELLED
        for stream in (watch, durable):
            seen: set[str] = set()
            while seen < unreadable_ids:
                seen |= {event.job_id for event in (await stream.read()).events}
            assert seen == unreadable_ids
        [event] = (await one.read()).events
        assert event.seq == 2
        assert await one.read() is grpc.aio.EOF
        watch.cancel()
        durable.cancel()


async def test_worker_fails_unreadable_jobs_and_runs_readable_ones(
    settings: Settings, ids: Ids
) -> None:
    echo = all_handlers().get("t.echo")
    assert echo is not None
    async with platform(settings, _registry(echo, *ids), workers=1) as jobs:
        for name in ("sound.one", "sound.two", "queue.never", "due.always"):
            assert (await jobs.until_ended(JobId(ids[name]))).state is JobState.SUCCEEDED
        for name in UNSTARTABLE:
            job = await jobs.until_ended(JobId(ids[name]))
            assert (job.state, job.attempt) == (JobState.FAILED, 1)
            assert job.error is not None
            assert job.error.type == "UNREADABLE"
            assert "mend" in job.error.message
            events = [event.type for event in await jobs.events(JobId(ids[name]))]
            assert events == [EventType.SUBMITTED, EventType.STARTED, EventType.FAILED]


def _registry(handler: RegisteredHandler, *types: str) -> Registry:
    """Return a registry in which one handler handles every job type of the poisoned database."""
    registry = Registry()
    for name in types:
        registry._handlers[name] = replace(handler, spec=replace(handler.spec, type=name))
    return registry
