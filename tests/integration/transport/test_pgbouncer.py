"""PgBouncer: session mode works; services refuse the other modes and report the reason."""

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
    """Settings of a connection through PgBouncer; the test passes the mode."""
    with pgbouncer(settings.database_url.get_secret_value(), mode=request.param) as url:
        yield settings.model_copy(update={"database_url": SecretStr(url)})


@pytest.mark.parametrize("pooled", ["session"], indirect=True)
async def test_session_mode_runs_jobs(pooled: Settings) -> None:
    async with platform(pooled, handlers()) as jobs:
        ids = await jobs.submit_many(20, "t.echo")
        assert {(await jobs.until_ended(job_id)).state for job_id in ids} == {JobState.SUCCEEDED}
        await jobs.bus.ping()


@pytest.mark.parametrize("pooled", ["transaction", "statement"], indirect=True)
async def test_every_service_refuses_shared_sessions(pooled: Settings) -> None:
    for service in (Gateway(pooled), Scheduler(pooled), WorkerService(pooled, handlers())):
        with pytest.raises(StartRefused, match="pool_mode=session"):
            await service.start()
        await service.stop()


@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
async def test_pool_with_used_sessions_is_refused(pooled: Settings) -> None:
    # The pool contains sessions of earlier clients, with their prepared statements.
    for _ in range(3):
        database = Database(pooled, application="test")
        with pytest.raises(StartRefused):
            await database.ping()
        await database.close()


@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
def test_commands_print_only_the_refusal(pooled: Settings) -> None:
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
