"""The payments example, with a real accounts table."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from headrace_core.domain.lifecycle import JobState
from headrace_core.runtime.settings import Settings
from headrace_worker.api.registry import Registry, registry
from support.platform import Platform, platform

ACCOUNTS = """
    CREATE TABLE accounts (name text PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))
"""
EXAMPLE_FILE = Path(__file__).parents[3] / "examples" / "payments.py"


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """A separate database, because the example creates a table."""
    return own_database_url


@pytest.fixture
def payments(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Registry:
    monkeypatch.setenv("HEADRACE_DATABASE_URL", settings.postgresql_url)
    monkeypatch.setattr(registry, "_handlers", {})
    spec = importlib.util.spec_from_file_location("headrace_payments", EXAMPLE_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Annotations are resolved through sys.modules, as for other modules.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    example_handlers = Registry()
    for registered in registry:
        example_handlers.add(registered)
    return example_handlers


async def balances(jobs: Platform) -> dict[str, int]:
    async with jobs.database.statement() as connection:
        rows = await connection.execute(text("SELECT name, balance FROM accounts"))
    return {row.name: row.balance for row in rows}


async def test_payment_is_committed_with_the_end_of_the_job(
    settings: Settings, payments: Registry
) -> None:
    async with platform(settings, payments) as jobs:
        async with jobs.database.statement() as connection:
            await connection.execute(text(ACCOUNTS))
            await connection.execute(text("INSERT INTO accounts VALUES ('a', 100), ('b', 0)"))
        payment = {"payer": "a", "payee": "b", "amount": 10}
        ids = await jobs.submit_many(12, "pay", json.dumps(payment))
        ended = [await jobs.until_ended(job_id) for job_id in ids]
        succeeded = [job for job in ended if job.state is JobState.SUCCEEDED]
        assert [job.result for job in succeeded] == ['{"paid":10}'] * 10
        assert {job.error.type for job in ended if job.error is not None} == {"TooLittle"}
        assert await balances(jobs) == {"a": 0, "b": 100}
        lost = await jobs.until_ended(
            await jobs.submit("pay", json.dumps({**payment, "payee": "c"}))
        )
        assert lost.error is not None
        assert lost.error.type in {"NoAccount", "TooLittle"}
        assert await balances(jobs) == {"a": 0, "b": 100}
