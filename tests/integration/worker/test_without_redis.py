"""Redis faults: workers claim jobs from PostgreSQL until Redis works again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from headrace_core.domain.lifecycle import EventType as E
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from support.handlers import handlers
from support.platform import platform
from support.proxy import Proxy
from support.until import until
from support.valkey import OwnValkey, own_valkey

Fault = Callable[[OwnValkey, Proxy], Awaitable[Callable[[], Awaitable[None]]]]


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    """A Valkey for one test."""
    with own_valkey() as valkey:
        yield valkey


async def run_command(valkey: OwnValkey, *words: str) -> None:
    async with Redis.from_url(valkey.url) as client:
        await client.execute_command(*words)


async def kill_redis(valkey: OwnValkey, _: Proxy) -> Callable[[], Awaitable[None]]:
    valkey.kill()
    return valkey.restart


async def mute_redis(_: OwnValkey, link: Proxy) -> Callable[[], Awaitable[None]]:
    """Let Redis accept connections and never respond."""
    link.mute()

    async def release() -> None:
        link.release()

    return release


async def fill_redis(valkey: OwnValkey, _: Proxy) -> Callable[[], Awaitable[None]]:
    await run_command(valkey, "CONFIG", "SET", "maxmemory", "1")
    return lambda: run_command(valkey, "CONFIG", "SET", "maxmemory", "0")


async def make_redis_replica(valkey: OwnValkey, _: Proxy) -> Callable[[], Awaitable[None]]:
    await run_command(valkey, "REPLICAOF", "127.0.0.1", "1")
    return lambda: run_command(valkey, "REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def settings_through_link(
    valkey: OwnValkey, settings: Settings
) -> AsyncIterator[tuple[Settings, Proxy]]:
    """Return settings with which all Redis connections use a link."""
    link = Proxy(valkey.url)
    await link.start()
    yield (
        settings.model_copy(update={"redis_url": SecretStr(link.url), "redis_timeout": 1.0}),
        link,
    )
    await link.cut()


@pytest.mark.parametrize(
    "fault", [kill_redis, mute_redis, fill_redis, make_redis_replica], ids=lambda f: f.__name__
)
async def test_jobs_run_during_and_after_a_redis_fault(
    settings: Settings, valkey: OwnValkey, fault: Fault
) -> None:
    async with (
        settings_through_link(valkey, settings) as (own_settings, link),
        platform(own_settings, handlers(), workers=2) as jobs,
    ):
        before = await jobs.submit("t.echo")
        assert (await jobs.until_ended(before)).state is JobState.SUCCEEDED

        release = await fault(valkey, link)
        for job_id in await jobs.submit_many(100, "t.echo"):
            assert (await jobs.until_ended(job_id)).state is JobState.SUCCEEDED
            assert await jobs.history(job_id) == [E.SUBMITTED, E.STARTED, E.SUCCEEDED]

        await release()

        async def workers_wait_on_redis() -> bool:
            # Each worker waits on its queue through the link.
            async with Redis.from_url(valkey.url) as client:
                clients = await client.client_list()
            return sum(each["cmd"] == "bzmpop" and "b" in each["flags"] for each in clients) == 2

        await until(workers_wait_on_redis, within=20)
        async with asyncio.timeout(20):
            after = await jobs.submit("t.echo")
            assert (await jobs.until_ended(after)).state is JobState.SUCCEEDED
