"""PgBouncer: session mode works, and the other modes are refused with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings, StartRefused
from headrace_core.store.migrate import migrate
from headrace_core.store.sql.database import Database
from headrace_gateway.service import Gateway
from headrace_scheduler.service import Scheduler
from headrace_worker.service import WorkerService
from support.handlers import handlers
from support.platform import platform
from support.settings import environment_of
from support.system_servers import pgbouncer


@pytest.fixture
def pooled(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Settings]:
    """Settings with PgBouncer in a mode, which the test chooses indirectly."""
    with pgbouncer(settings.database_url.get_secret_value(), mode=request.param) as url:
        yield settings.model_copy(update={"database_url": SecretStr(url)})


@pytest.mark.parametrize("pooled", ["session"], indirect=True)
async def test_session_mode_runs_jobs(pooled: Settings) -> None:
    async with platform(pooled, handlers()) as jobs:
        ids = await jobs.submit_many(20, "t.echo")
        assert {(await jobs.until_ended(job_id)).state for job_id in ids} == {JobState.SUCCEEDED}
        await jobs.bus.ping()


@pytest.mark.parametrize("pooled", ["transaction", "statement"], indirect=True)
async def test_shared_sessions_are_refused_by_every_service(pooled: Settings) -> None:
    for service in (Gateway(pooled), Scheduler(pooled), WorkerService(pooled, handlers())):
        with pytest.raises(StartRefused, match="pool_mode=session"):
            await service.start()
        await service.stop()


@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
async def test_busy_pooler_is_refused_too(pooled: Settings) -> None:
    # Sessions of the pool that earlier clients have left, with their prepared statements.
    for _ in range(3):
        database = Database(pooled, application="test")
        with pytest.raises(StartRefused):
            await database.ping()
        await database.close()


@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
def test_refusal_is_the_only_output_of_commands(pooled: Settings) -> None:
    with pytest.raises(StartRefused):
        migrate(pooled)
    for module, code in (("headrace_core", 1), ("headrace_scheduler", 78)):
        arguments = ["migrate"] if module == "headrace_core" else []
        completed = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=environment_of(pooled) | {"PATH": os.defpath},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert completed.returncode == code, completed.stderr
        assert "pool_mode=session" in completed.stderr
        assert "Traceback" not in completed.stderr
