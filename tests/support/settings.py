"""Settings for services that tests start in this process or in separate ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import SecretStr
from redis import Redis

from headrace_core.runtime.settings import Settings


def short_settings(database_url: str, redis_url: str) -> Settings:
    """Return settings with free ports and with waits that suit tests.

    Args:
        database_url: a database with the schema.
        redis_url: an empty Redis database.
    """
    servers = {"database_url": SecretStr(database_url), "redis_url": SecretStr(redis_url)}
    return _short().model_copy(update=servers)


@cache
def _short() -> Settings:
    fields: dict[str, Any] = {
        "gateway_address": "127.0.0.1:0",
        "scheduler_address": "127.0.0.1:0",
        "worker_address": "127.0.0.1:0",
        "web_address": "127.0.0.1:0",
        "reflection": True,
        "log_format": "console",
        "shutdown_grace": 5.0,
        "redeliver_after": 2.0,
        "worker_processes": 2,
        # These values are high, because the machine may be busy.
        "call_timeout": 60.0,
        # A worker keeps its attempts even if a busy machine delays it for seconds.
        "worker_lease": 10.0,
        "worker_beat": 1.0,
        # The watchdog is disabled, because it would end the test process.
        "worker_watchdog": 0.0,
        "worker_cancel_grace": 1.0,
    }
    return Settings(**fields)


def empty_redis(urls: Iterator[str]) -> str:
    """Empty the next Redis database of `urls` and return its URL."""
    url = next(urls)
    with Redis.from_url(url, socket_timeout=60) as client:
        client.flushdb()
    return url


def environment_of(settings: Settings, **changes: str) -> dict[str, str]:
    """Return the environment of a service process.

    Args:
        settings: each field becomes a variable.
        changes: further variables, by their full names.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    for name in type(settings).model_fields:
        environment[f"HEADRACE_{name.upper()}"] = _text(getattr(settings, name))
    return environment | changes


def _text(value: object) -> str:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(str(part) for part in value)
        case bool():
            return str(value).lower()
        case _:
            return str(value)
