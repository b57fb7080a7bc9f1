"""The Redis user in docs/production.md has sufficient privileges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from headrace_core.delivery import Deliverer
from headrace_core.delivery.redis_server import read_redis
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from support.listening import WAKE_UP_TIMEOUT_S, listening
from support.valkey import OwnValkey, own_valkey
from support.worker_callbacks import POOL, FakeCallbacks, identify, new_keys, running_worker

PAGE = Path(__file__).parents[3] / "docs" / "production.md"


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    with own_valkey() as valkey:
        yield valkey


async def test_documented_acl_rules_are_sufficient(
    settings: Settings, database: Database, valkey: OwnValkey
) -> None:
    [rules] = [line for line in PAGE.read_text().splitlines() if line.startswith("ACL SETUSER")]
    admin: Redis = Redis.from_url(valkey.url)
    await admin.execute_command(*rules.split())
    server = urlsplit(valkey.url)
    url = server._replace(netloc=f"headrace:password@127.0.0.1:{server.port}").geturl()
    limited = settings.model_copy(update={"redis_url": SecretStr(url)})
    async with AsyncExitStack() as stack:
        # The test waits for the subscription as an admin, because that requires more privileges.
        wake = await stack.enter_async_context(
            listening(limited, database, Topic.JOBS, admin=valkey.url)
        )
        bus = WakeBus(limited, database)
        await bus.start()
        stack.push_async_callback(bus.stop)
        await bus.ping_redis()
        bus.publish(Topic.JOBS)
        assert await wake.wait(WAKE_UP_TIMEOUT_S)
        deliverer = Deliverer(limited, identify=identify)
        stack.push_async_callback(deliverer.close)
        callbacks, deliveries = FakeCallbacks(), new_keys(2)
        async with running_worker(limited, callbacks) as worker:
            await worker.ping()
            for delivery in deliveries:
                await deliverer.deliver(POOL, [(delivery, 0)])
                await callbacks.until_started(delivery)
            await worker.leave()
        assert not (await read_redis(limited)).write_error
    assert await admin.acl_log() == []
    await admin.aclose()
