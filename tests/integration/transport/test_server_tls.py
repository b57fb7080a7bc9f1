"""PostgreSQL and Redis over TLS, with real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import text

from headrace_core.delivery import Deliverer
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.migrate import migrate_async
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic, WakeBus
from support.certificates import Authority, CertificateFile
from support.handlers import handlers
from support.platform import platform
from support.system_servers import CERTIFIED_ROLE, TlsPostgres, tls_postgres, tls_redis
from support.until import until
from support.worker_callbacks import identify

REDIS_USER = "services"
REDIS_PASSWORD = "p@ss/word"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Authority(tmp_path_factory.mktemp("other")).file


@pytest.fixture(scope="module")
def client(authority: Authority) -> CertificateFile:
    return authority.issue("client", "client.example.com")


@pytest.fixture(scope="module")
def postgres(authority: Authority) -> Iterator[TlsPostgres]:
    with tls_postgres(authority) as server:
        yield server


@pytest.fixture(scope="module")
def redis_address(authority: Authority) -> Iterator[str]:
    user = f"user {REDIS_USER} on >{REDIS_PASSWORD} ~shared:* &shared_* +@all"
    with tls_redis(authority, "--user", *user.split()[1:]) as address:
        yield address


def redis_url(address: str, ca: Path, client: CertificateFile | None) -> str:
    login = f"{REDIS_USER}:{quote(REDIS_PASSWORD, safe='')}"
    url = f"rediss://{login}@{address}/0?ssl_ca_certs={ca}"
    if client is not None:
        url += f"&ssl_certfile={client.cert}&ssl_keyfile={client.key}"
    return url


def with_urls(settings: Settings, *, database: str = "", redis: str = "") -> Settings:
    changes = {"database_url": database, "redis_url": redis}
    return settings.model_copy(
        update={name: SecretStr(url) for name, url in changes.items() if url}
    )


async def test_platform_runs_jobs_with_tls_only_servers(
    settings: Settings,
    authority: Authority,
    client: CertificateFile,
    postgres: TlsPostgres,
    redis_address: str,
) -> None:
    secured = with_urls(
        settings,
        database=postgres.url(
            f"sslmode=verify-full&sslrootcert={authority.file}"
            f"&sslcert={client.cert}&sslkey={client.key}",
            role=CERTIFIED_ROLE,
        ),
        redis=redis_url(redis_address, authority.file, client),
    ).model_copy(update={"redis_prefix": "shared"})
    await migrate_async(secured)
    async with platform(secured, handlers()) as jobs:
        ids = await jobs.submit_many(20, "t.echo")
        assert {(await jobs.until_ended(job_id)).state for job_id in ids} == {JobState.SUCCEEDED}
        await jobs.bus.ping()
        await jobs.bus.ping_redis()
        async with jobs.database.transaction() as connection:
            sessions = await connection.execute(
                text(
                    "SELECT application_name, ssl, version, client_serial IS NOT NULL AS certified "
                    "FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) "
                    "WHERE application_name LIKE 'headrace-%'"
                )
            )
        names = {row.application_name for row in sessions}
        assert {"headrace-scheduler", "headrace-worker", "headrace-worker-listen"} <= names
        assert {(row.ssl, row.certified) for row in sessions} == {(True, True)}
        assert {row.version for row in sessions} <= {"TLSv1.2", "TLSv1.3"}


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_password_over_tls_connects(
    settings: Settings, authority: Authority, postgres: TlsPostgres, mode: str
) -> None:
    url = postgres.url(f"sslmode={mode}&sslrootcert={authority.file}")
    database = Database(with_urls(settings, database=url), application="test")
    await database.ping()
    await database.close()


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_postgresql_of_an_untrusted_authority_is_rejected(
    settings: Settings, other_ca: Path, postgres: TlsPostgres, mode: str
) -> None:
    url = postgres.url(f"sslmode={mode}&sslrootcert={other_ca}")
    database = Database(with_urls(settings, database=url), application="test")
    with pytest.raises(Unavailable) as excinfo:
        await database.ping()
    assert "CERTIFICATE_VERIFY_FAILED" in repr(excinfo.value.__cause__)
    await database.close()


async def test_postgresql_refuses_plaintext_and_missing_certificates(
    settings: Settings, authority: Authority, postgres: TlsPostgres
) -> None:
    for url in (
        postgres.url("sslmode=disable"),
        postgres.url(f"sslmode=verify-full&sslrootcert={authority.file}", role=CERTIFIED_ROLE),
    ):
        database = Database(with_urls(settings, database=url), application="test")
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await database.ping()
        await database.close()


async def test_redis_requires_authority_and_client_certificate(
    settings: Settings,
    authority: Authority,
    other_ca: Path,
    client: CertificateFile,
    redis_address: str,
) -> None:
    for url, accepted in (
        (redis_url(redis_address, authority.file, client), True),
        (redis_url(redis_address, other_ca, client), False),
        (redis_url(redis_address, authority.file, None), False),
        (redis_url(redis_address, authority.file, client).replace("rediss", "redis", 1), False),
    ):
        changed = with_urls(settings, redis=url).model_copy(update={"redis_prefix": "shared"})
        if not accepted and url.startswith("redis:"):
            # TLS options require a TLS URL.
            changed = with_urls(changed, redis=url.partition("?")[0])
        deliverer = Deliverer(changed, identify=identify)
        if accepted:
            await deliverer.ping()
        else:
            with pytest.raises(Unavailable):
                await deliverer.ping()
        await deliverer.close()


async def test_redis_user_can_access_only_its_prefix(
    settings: Settings,
    database: Database,
    authority: Authority,
    client: CertificateFile,
    redis_address: str,
) -> None:
    url = redis_url(redis_address, authority.file, client)
    outside = Deliverer(with_urls(settings, redis=url), identify=identify)
    with pytest.raises(Unavailable):
        await outside.ping()
    await outside.close()
    inside = with_urls(settings, redis=url).model_copy(update={"redis_prefix": "shared"})
    bus = WakeBus(inside, database, Topic.JOBS)
    await bus.start()
    reader: Redis = Redis.from_url(url)

    async def has_subscriber() -> bool:
        installation = await database.installation_id()
        channel = Topic.JOBS.redis_channel("shared", installation)
        [(_, count)] = await reader.pubsub_numsub(channel)
        return bool(count)

    await until(has_subscriber)
    await bus.stop()
    await reader.aclose()
