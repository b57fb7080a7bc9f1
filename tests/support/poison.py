"""Databases with unreadable rows from older versions, which had schema 0004."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import asyncpg
from pydantic import SecretStr

from headrace_core.domain.ids import uuid7
from headrace_core.runtime.settings import Settings
from headrace_core.store.migrate import migrate
from support.databases import Databases
from support.roles import grant_roles
from support.server import run_async

# The poisoned jobs by type: SQL values that replace the values of a readable QUEUED job.
POISONED = {
    "deadline.late": {"deadline": "'infinity'"},
    "deadline.early": {"deadline": "'-infinity'"},
    "deadline.beyond": {"deadline": "'20000-01-01'"},
    "deadline.bc": {"deadline": "'0044-03-15 BC'"},
    "timeout.beyond": {"timeout": "'3000000 years'"},
    "timeout.negative": {"timeout": "'-1 second'"},
    "due.never": {
        "state": "'scheduled'",
        "queue_time": "NULL",
        "due_time": "'infinity'",
        "rank": "'Infinity'",
    },
    "due.always": {
        "state": "'scheduled'",
        "queue_time": "NULL",
        "due_time": "'-infinity'",
        "rank": "'-Infinity'",
    },
    "rank.nan": {"rank": "'NaN'"},
    "create.never": {"create_time": "'infinity'", "update_time": "'infinity'"},
    "queue.never": {"queue_time": "'infinity'"},
    "labels.numbers": {"labels": """'{"team": 1}'"""},
    "labels.nested": {"labels": """'{"team": {"a": []}}'"""},
    "retry.text": {"retry": """'{"max_attempts": "x"}'"""},
    "retry.beyond": {"retry": """'{"initial_backoff": 1e300}'"""},
    "retry.list": {"retry": "'[]'"},
    "progress.beyond": {
        "progress": """'{"fraction": 1e999, "message": "", "counters": {}}'""",
    },
    "error.list": {
        "state": "'failed'",
        "error": "'[1]'",
        "end_time": "now()",
    },
}
# A worker fails these jobs at their start. The other jobs start normally or never start.
UNSTARTABLE = (
    *("deadline.late", "deadline.beyond", "timeout.beyond", "timeout.negative"),
    *("labels.numbers", "labels.nested", "retry.text", "retry.beyond", "retry.list"),
)

_READABLE = {
    "payload": "'{}'",
    "priority": "0",
    "labels": "'{}'",
    "state": "'queued'",
    "rank": "extract(epoch FROM now()) * 1000",
    "create_time": "now()",
    "due_time": "now()",
    "queue_time": "now()",
    "update_time": "now()",
}


@contextmanager
def poisoned(databases: Databases) -> Iterator[tuple[str, dict[str, UUID]]]:
    """Yield the URL of a migrated database, and the ids of its poisoned and two readable jobs."""
    with databases.fresh(migrated=False) as url:
        settings = Settings(database_url=SecretStr(url))
        migrate(settings, revision="0004")
        ids = run_async(lambda: _fill(settings))
        migrate(settings)
        grant_roles(url)
        yield url, ids


async def _fill(settings: Settings) -> dict[str, UUID]:
    ids = {}
    connection = await asyncpg.connect(
        settings.postgresql_url, server_settings={"search_path": settings.database_schema}
    )
    try:
        for name, fields in {**POISONED, "sound.one": {}, "sound.two": {}}.items():
            ids[name] = uuid7()
            values = {**_READABLE, **fields}
            await connection.execute(
                f"INSERT INTO jobs (id, tenant, type, queue, {', '.join(values)}) "
                f"VALUES ($1, 'default', $2, 'default', {', '.join(values.values())})",
                ids[name],
                name,
            )
            state = values["state"] if values["state"] == "'scheduled'" else "'queued'"
            due = values["due_time"] if state == "'scheduled'" else "NULL"
            await connection.execute(
                "INSERT INTO job_events (job_id, seq, xid, tenant, type, state, attempt, time, "
                "due_time) VALUES ($1, 1, pg_current_xact_id(), 'default', 'submitted', "
                f"{state}, 0, {values['create_time']}, {due})",
                ids[name],
            )
    finally:
        await connection.close()
    return ids
