"""`headrace verify`: each check finds its kind of damage."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.audit import AuditEntry
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.audit import record_audit
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.jobs.submit_batch import submit_batch
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_ops import audit as auditing
from headrace_ops.audit import Audit, Auditor, SchemaMismatch
from headrace_ops.verify import RULES
from support.commands import Headrace
from support.databases import Databases
from support.jobs import new_batch, new_job, read_job, set_column, submit, submit_many
from support.retention import prune
from support.server import run_async
from support.states import prepare_job
from support.workers import attempt_end, lapse, register, report, start, write_ends


async def populate(database: Database) -> None:
    """Create a job in every state, and a job that succeeded after a requeue."""
    for state in JobState:
        await prepare_job(database, state)
    prepared = await prepare_job(database, JobState.FAILED)
    async with database.transaction() as connection:
        await requeue_job(connection, tenant=DEFAULT_TENANT, job_id=prepared.job.id)
    job = await read_job(database, prepared.job.id)
    await start(database, prepared.worker_id, job)
    await report(
        database, prepared.worker_id, AttemptReport(key=AttemptKey(job.id, 2), output='{"line": 1}')
    )
    await write_ends(database, prepared.worker_id, attempt_end(job.id, 2, EventType.SUCCEEDED))
    async with database.transaction() as connection:
        entries = [AuditEntry(tenant=DEFAULT_TENANT, method=f"m{number}") for number in range(4)]
        await record_audit(connection, *entries)


async def audit(
    database: Database, *, patience: float | None = None, page: int = 3, limit: int = 20
) -> Audit:
    auditor = Auditor(database, limit=limit, progress=lambda *_: None, page=page)
    return await auditor.run(patience=patience)


async def damage(database: Database, *statements: str) -> None:
    """Run statements with triggers and foreign keys disabled."""
    async with database.transaction() as connection:
        await execute_without_triggers(connection, *statements)


async def execute_without_triggers(connection: Connection, *statements: str) -> None:
    await connection.execute(text("SET LOCAL session_replication_role = replica"))
    for statement in statements:
        await connection.execute(text(statement))


@pytest.fixture(scope="module")
def populated_url(databases: Databases) -> Iterator[str]:
    """A populated database that no test changes."""

    async def fill() -> None:
        database = Database(Settings(database_url=SecretStr(url)), application="test")
        await populate(database)
        await database.close()

    with databases.fresh() as url:
        run_async(fill)
        yield url


@pytest.fixture
async def populated(populated_url: str) -> AsyncIterator[Database]:
    """The populated database. Tests only read it."""
    database = Database(Settings(database_url=SecretStr(populated_url)), application="test")
    yield database
    await database.close()


async def audit_damaged(database: Database, *statements: str) -> Audit:
    """Audit a database after some statements, then roll them back."""
    async with database.transaction() as connection:
        await execute_without_triggers(connection, *statements)
        auditor = Auditor(database, limit=20, progress=lambda *_: None, page=3)
        breaches = await auditor.read(connection)
        await connection.rollback()
    return breaches


@pytest.mark.parametrize("page", [1, 3, 10_000])
async def test_healthy_database_is_clean_for_any_page_size(populated: Database, page: int) -> None:
    breaches = await audit(populated, page=page)
    assert breaches.breaches == []
    assert not breaches.counts
    assert breaches.jobs == len(JobState) + 1
    async with populated.transaction() as connection:
        assert breaches.events == await connection.scalar(text("SELECT count(*) FROM job_events"))


async def test_empty_database_is_clean(database: Database) -> None:
    breaches = await audit(database, patience=0.0)
    assert (breaches.jobs, breaches.events, breaches.breaches) == (0, 0, [])


UPDATE_EVENTS = "UPDATE job_events SET"
INSERT_EVENT = "INSERT INTO job_events (job_id, seq, xid, tenant, type, state, attempt, time) "
INSERT_SUBSCRIPTION = "INSERT INTO subscriptions (tenant, name, filter, xid, position) VALUES "
ENDED_ID = "(SELECT id FROM jobs WHERE state = 'succeeded' AND attempt = 1)"
JOIN_XID = "CROSS JOIN pg_current_xact_id() AS now_xid"
FROM_ENDED = f"FROM jobs {JOIN_XID} WHERE id = {ENDED_ID}"
FROM_SCHEDULED = f"FROM jobs {JOIN_XID} WHERE state = 'scheduled'"
RERUN_ID = "(SELECT id FROM jobs WHERE attempt = 2)"
DROP_CONSTRAINT = "ALTER TABLE {} DROP CONSTRAINT {}".format

# Statements that damage a row, with the check that must find the damage.
DAMAGE_BY_CHECK: list[tuple[str, Sequence[str]]] = [
    ("missing", [f"DELETE FROM job_events WHERE job_id = {ENDED_ID}"]),
    ("orphan", [f"DELETE FROM jobs WHERE id = {ENDED_ID}"]),
    ("gap", [f"DELETE FROM job_events WHERE job_id = {ENDED_ID} AND seq = 2"]),
    ("gap", [f"DELETE FROM job_events WHERE job_id = {ENDED_ID} AND seq = 1"]),
    ("row", [f"DELETE FROM job_events WHERE job_id = {ENDED_ID} AND seq = 3"]),
    (
        "step",
        [
            f"{UPDATE_EVENTS} type = 'due', state = 'queued' WHERE job_id = {ENDED_ID} AND seq = 2",
        ],
    ),
    (
        "step",
        [
            DROP_CONSTRAINT("job_events", "job_events_first_check"),
            (
                f"{UPDATE_EVENTS} type = 'started', state = 'running' WHERE "
                f"job_id = {ENDED_ID} AND seq = 1"
            ),
        ],
    ),
    (
        "unreadable",
        [
            DROP_CONSTRAINT("jobs", "jobs_times_check"),
            f"UPDATE jobs SET deadline = 'infinity' WHERE id = {ENDED_ID}",
        ],
    ),
    ("unreadable", [f"UPDATE jobs SET labels = '{{\"a\": 1}}' WHERE id = {ENDED_ID}"]),
    (
        "unreadable",
        [
            DROP_CONSTRAINT("job_events", "job_events_times_check"),
            f"UPDATE job_events SET time = 'infinity' WHERE job_id = {ENDED_ID} AND seq = 2",
        ],
    ),
    (
        "unreadable",
        [
            DROP_CONSTRAINT("workers", "workers_times_check"),
            "UPDATE workers SET start_time = '-infinity'",
        ],
    ),
    ("unreadable", ["UPDATE worker_handlers SET retry = '{\"jitter\": 2}'"]),
    ("attempt", [f"UPDATE job_events SET attempt = 2 WHERE job_id = {ENDED_ID} AND seq = 2"]),
    ("attempt", [f"UPDATE job_events SET attempt = 1 WHERE job_id = {ENDED_ID} AND seq = 1"]),
    (
        "end",
        [
            (
                f"{INSERT_EVENT} SELECT id, 4, now_xid, tenant, 'failed', "
                f"'failed', 1, now() {FROM_ENDED}"
            ),
        ],
    ),
    (
        "end",
        [
            DROP_CONSTRAINT("job_events", "job_events_step_check"),
            f"UPDATE job_events SET type = 'due' WHERE job_id = {RERUN_ID} AND type = 'requeued'",
        ],
    ),
    ("row", [f"UPDATE jobs SET seq = 4 WHERE id = {ENDED_ID}"]),
    ("audit", ["UPDATE audit_log SET principal = 'eve' WHERE seq = 2"]),
    ("audit", ["DELETE FROM audit_log WHERE seq = 1"]),
    ("audit", ["DELETE FROM audit_log WHERE seq = 3"]),
    ("audit", ["DELETE FROM audit_log WHERE seq = 4"]),
    ("audit", ["DELETE FROM audit_log"]),
    ("audit", ["DELETE FROM audit_chains"]),
    ("row", [f"UPDATE jobs SET attempt = 2 WHERE id = {ENDED_ID}"]),
    ("row", ["UPDATE jobs SET state = 'retrying', error = '{}' WHERE state = 'queued'"]),
    ("place", [f"UPDATE jobs SET xid = pg_current_xact_id() WHERE id = {ENDED_ID}"]),
    (
        "place",
        [
            (
                f"UPDATE job_events SET xid = pg_current_xact_id() WHERE job_id "
                f"= {ENDED_ID} AND seq = 2"
            ),
        ],
    ),
    ("tenant", [f"UPDATE jobs SET tenant = 'other' WHERE id = {ENDED_ID}"]),
    ("tenant", [f"UPDATE job_events SET tenant = 'other' WHERE job_id = {ENDED_ID} AND seq = 2"]),
    (
        "early",
        [
            (
                f"{INSERT_EVENT} SELECT id, 2, now_xid, tenant, 'due', 'queued', "
                f"0, now() {FROM_SCHEDULED}"
            ),
        ],
    ),
    (
        "size",
        [
            DROP_CONSTRAINT("job_events", "job_events_progress_check"),
            (
                f"{UPDATE_EVENTS} progress = to_json(repeat('a', 70000)) WHERE "
                f"job_id = {ENDED_ID} AND seq = 2"
            ),
        ],
    ),
    (
        "key",
        [
            "DROP INDEX jobs_request_id_idx",
            "UPDATE jobs SET request_id = 'same' WHERE request_id IS NOT NULL",
        ],
    ),
    ("batch", [f"UPDATE jobs SET batch_id = gen_random_uuid() WHERE id = {ENDED_ID}"]),
    (
        "batch",
        ["INSERT INTO batches VALUES (gen_random_uuid(), 'default', NULL, 'a', 1)"],
    ),
    (
        "batch",
        [
            "INSERT INTO batches VALUES (gen_random_uuid(), 'default', NULL, 'a', 1)",
            "UPDATE jobs SET batch_id = (SELECT id FROM batches)",
        ],
    ),
    ("leftover", [f"INSERT INTO pruned_jobs SELECT id, 1, 3 FROM jobs WHERE id = {ENDED_ID}"]),
    ("leftover", ["INSERT INTO pruned_jobs VALUES (gen_random_uuid(), 1, 3)"]),
    (
        "leftover",
        [
            f"INSERT INTO pruned_jobs SELECT id, 1, 3 FROM jobs WHERE id = {ENDED_ID}",
            f"DELETE FROM job_events WHERE job_id = {ENDED_ID} AND seq = 2",
            f"DELETE FROM jobs WHERE id = {ENDED_ID}",
        ],
    ),
    ("handler", ["DELETE FROM workers WHERE id = (SELECT worker_id FROM worker_handlers LIMIT 1)"]),
    ("log", ["INSERT INTO event_log VALUES ('default', '1000000000', 1)"]),
    ("log", ["INSERT INTO event_log VALUES ('default', '3', 1000000000)"]),
    ("log", [f"UPDATE job_events SET xid = '1000000000' WHERE job_id = {ENDED_ID}"]),
    (
        "log",
        [
            f"{INSERT_SUBSCRIPTION} ('default', 'billing', '{{}}', '1000000000', 1)",
        ],
    ),
    ("installation", ["DELETE FROM installation"]),
]


@pytest.mark.parametrize(
    ("check", "statements"),
    DAMAGE_BY_CHECK,
    ids=[f"{check}-{number}" for number, (check, _) in enumerate(DAMAGE_BY_CHECK)],
)
async def test_damage_is_found_by_its_check(
    populated: Database, check: str, statements: Sequence[str]
) -> None:
    breaches = await audit_damaged(populated, *statements)
    assert check in breaches.counts, breaches


@pytest.mark.parametrize("event", EventType)
async def test_event_that_breaks_the_lifecycle_is_found(
    populated: Database, event: EventType
) -> None:
    before = "started" if event is EventType.SUBMITTED else "submitted"
    breaches = await audit_damaged(
        populated,
        DROP_CONSTRAINT("job_events", "job_events_step_check"),
        DROP_CONSTRAINT("job_events", "job_events_first_check"),
        DROP_CONSTRAINT("job_events", "job_events_output_check"),
        DROP_CONSTRAINT("job_events", "job_events_progress_check"),
        # A job has no state before its first event, and is QUEUED after this event.
        f"UPDATE job_events SET type = '{event}', state = 'running' "
        f"WHERE job_id = {ENDED_ID} AND type = '{before}'",
    )
    assert "step" in breaches.counts


def test_every_check_of_stored_rows_has_a_damaged_row() -> None:
    waiting = {"lease", "due", "deadline", "delivery"}
    assert {check for check, _ in DAMAGE_BY_CHECK} == set(RULES) - waiting


async def audit_as(database: Database, *statements: str, may_read: str) -> Audit:
    """Audit as a temporary role with limited read privileges."""
    role = "headrace_test_auditor"
    return await audit_damaged(
        database,
        *statements,
        f"CREATE ROLE {role}",
        f"GRANT USAGE ON SCHEMA headrace TO {role}",
        *(f"GRANT SELECT ON ALL {kind} IN SCHEMA headrace TO {role}" for kind in may_read.split()),
        f"SET LOCAL ROLE {role}",
    )


@pytest.mark.parametrize("may_read", ["TABLES", "TABLES SEQUENCES"])
async def test_read_only_role_finds_a_healthy_database_clean(
    populated: Database, may_read: str
) -> None:
    assert (await audit_as(populated, may_read=may_read)).breaches == []


async def test_place_beyond_the_sequence_is_found(
    populated: Database,
) -> None:
    insert_place = "INSERT INTO event_log VALUES ('default', '3', 1000000000)"
    breaches = await audit_as(populated, insert_place, may_read="TABLES SEQUENCES")
    assert breaches.counts["log"] == 1
    # Without the right to read sequences, verify still finds a place after the newest transaction.
    insert_place = "INSERT INTO event_log VALUES ('default', '1000000000', 1)"
    breaches = await audit_as(populated, insert_place, may_read="TABLES")
    assert breaches.counts["log"] == 1


async def test_leftovers_of_a_pruned_job_are_not_orphans(database: Database) -> None:
    prepared = await prepare_job(database, JobState.SUCCEEDED)
    await prune(database, max_events=2)
    async with database.transaction() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM pruned_jobs")) == 1
        assert await connection.scalar(text("SELECT count(*) FROM job_events")) == 1
    assert prepared.job.seq == 3
    assert (await audit(database)).breaches == []


async def test_database_with_a_batch_is_clean(database: Database) -> None:
    async with database.transaction() as connection:
        await submit_batch(connection, new_batch([new_job().spec] * 5))
    assert (await audit(database)).breaches == []


async def test_breaches_beyond_the_limit_are_only_counted(database: Database) -> None:
    await submit_many(database, 30)
    await damage(database, "DELETE FROM job_events")
    breaches = await audit(database, limit=5, page=7)
    assert breaches.counts == {"missing": 30}
    assert len(breaches.breaches) == 5


# Stuck jobs.


async def test_running_job_without_a_live_worker_is_found(database: Database) -> None:
    lapsed, missing, _ = [await prepare_job(database, JobState.RUNNING) for _ in range(3)]
    await lapse(database, lapsed.worker_id)
    await damage(
        database,
        f"DELETE FROM worker_handlers WHERE worker_id = '{missing.worker_id}'",
        f"DELETE FROM workers WHERE id = '{missing.worker_id}'",
    )
    breaches = await audit(database, patience=0.0)
    assert {(one.check, one.subject) for one in breaches.breaches} == {
        ("lease", f"job {lapsed.job.id}"),
        ("lease", f"job {missing.job.id}"),
    }
    assert (await audit(database)).breaches == []


async def test_due_job_that_is_not_queued_is_found(database: Database) -> None:
    prepared = await prepare_job(database, JobState.SCHEDULED)
    await set_column(database, prepared.job.id, "due_time = now() - interval '1 s'")
    [breach] = (await audit(database, patience=0.0)).breaches
    assert (breach.check, breach.subject) == ("due", f"job {prepared.job.id}")


async def test_stuck_job_on_a_standby_is_not_a_breach(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = await prepare_job(database, JobState.SCHEDULED)
    await set_column(database, prepared.job.id, "due_time = now() - interval '1 s'")
    assert (await audit(database, patience=0.0)).counts == {"due": 1}

    async def standby(_: Connection) -> bool:
        return True

    monkeypatch.setattr(auditing, "is_standby", standby)
    assert (await audit(database, patience=0.0)).breaches == []
    # Stored rows are still checked.
    await damage(database, f"DELETE FROM job_events WHERE job_id = '{prepared.job.id}'")
    assert (await audit(database, patience=0.0)).counts == {"missing": 1}


async def test_job_past_its_deadline_is_found(database: Database) -> None:
    early, late = await submit(database), await submit(database)
    await set_column(database, early.id, "deadline = now() - interval '1 s'")
    await set_column(database, late.id, "deadline = now() - interval '11 s'")
    [breach] = (await audit(database, patience=0.0)).breaches
    assert (breach.check, breach.subject) == ("deadline", f"job {late.id}")


async def test_undelivered_job_despite_free_slots_is_found(database: Database) -> None:
    await register(database, slots=10)
    first, _, unserved = [
        await submit(database, **spec) for spec in ({"priority": 1}, {}, {"type": "unknown"})
    ]
    assert unserved.type == "unknown"
    [breach] = (await audit(database, patience=0.0)).breaches
    assert (breach.check, breach.subject) == ("delivery", f"job {first.id}")


async def test_job_that_waits_for_a_busy_worker_is_clean(database: Database) -> None:
    worker_id = await register(database, slots=2)
    await start(database, worker_id, await submit(database))
    await submit(database)
    assert (await audit(database, patience=0.0)).breaches == []


async def test_job_that_moves_during_the_audit_is_not_a_breach(database: Database) -> None:
    prepared = await prepare_job(database, JobState.RUNNING)
    await lapse(database, prepared.worker_id)
    reads = 0

    class RecoveringAuditor(Auditor):
        async def _find_stuck(self):
            nonlocal reads
            reads += 1
            breaches = await super()._find_stuck()
            if reads == 1:
                assert breaches
                await set_column(
                    database, prepared.job.id, "state = 'queued', queue_time = now(), seq = 3"
                )
            return breaches

    auditor = RecoveringAuditor(database, limit=1, progress=lambda *_: None)
    breaches = await auditor.run(patience=60.0)
    assert breaches.breaches == []
    assert reads == 2


# The command.


async def test_verify_exits_with_1_for_a_breach(
    headrace: Headrace, settings: Settings, database: Database
) -> None:
    await populate(database)
    completed = headrace(settings, "verify", "--at-rest")
    assert (completed.returncode, completed.stderr) == (0, "")
    assert completed.stdout.startswith("clean: 8 jobs")
    await damage(database, f"DELETE FROM job_events WHERE job_id = {ENDED_ID} AND seq = 2")
    completed = headrace(settings, "verify", "--at-rest")
    assert completed.returncode == 1
    assert "gap: events are numbered 1, 2, 3 … without a gap" in completed.stdout
    assert "the event before event 3 is missing" in completed.stdout
    assert "1 breach\n" in completed.stdout
    for arguments in (("--json",), ("-o", "json")):
        completed = headrace(settings, "verify", "--at-rest", *arguments)
        output = json.loads(completed.stdout)
        assert (completed.returncode, output["verdict"], output["counts"]) == (
            1,
            "breach",
            {"gap": 1},
        )
        assert output["breaches"][0]["subject"].startswith("job ")


async def test_unreachable_database_exits_as_unknown(
    headrace: Headrace, settings: Settings
) -> None:
    unreachable = settings.model_copy(
        update={"database_url": SecretStr("postgresql://headrace:pa55word@127.0.0.1:1/headrace")}
    )
    completed = headrace(unreachable, "verify", "--json")
    assert completed.returncode == 2
    output = json.loads(completed.stdout)
    assert output["verdict"] == "unknown"
    assert "the database at 127.0.0.1:1/headrace cannot be reached" in output["reason"]
    assert "HEADRACE_DATABASE_URL names it" in output["reason"]
    assert "--data FOLDER" in output["reason"]
    assert "pa55word" not in completed.stdout + completed.stderr


async def test_wrong_password_exits_with_2_and_is_not_printed(
    headrace: Headrace, settings: Settings
) -> None:
    url = settings.postgresql_url.replace("@127", "x@127")
    completed = headrace(settings.model_copy(update={"database_url": SecretStr(url)}), "verify")
    assert completed.returncode == 2
    assert "check failed" in completed.stderr
    assert (
        url.partition("//headrace:")[2].partition("@")[0] not in completed.stdout + completed.stderr
    )


async def test_different_schema_version_exits_with_2(
    headrace: Headrace, settings: Settings, database: Database
) -> None:
    await damage(database, "UPDATE headrace_version SET version_num = '0001'")
    completed = headrace(settings, "verify")
    assert completed.returncode == 2
    assert "schema 0001, but this version expects" in completed.stderr


async def test_database_without_a_schema_is_not_audited(populated: Database) -> None:
    with pytest.raises(SchemaMismatch, match="no Headrace schema"):
        await audit_damaged(populated, "DROP TABLE headrace_version")


def test_folder_without_servers_exits_with_2(
    headrace: Headrace, settings: Settings, tmp_path: Path
) -> None:
    completed = headrace(settings, "verify", "--data", str(tmp_path))
    assert completed.returncode == 2
    assert "no headrace up" in completed.stderr


async def test_audit_waits_for_no_lock_and_cannot_write(database: Database) -> None:
    await populate(database)
    async with database.transaction() as connection:
        # Another transaction has locked and changed every row.
        await connection.execute(text("UPDATE jobs SET update_time = update_time"))
        await connection.execute(text("UPDATE job_events SET time = time"))
        breaches = await audit(database, page=2)
        assert breaches.breaches == []
    async with database.snapshot(statement_timeout=timedelta(seconds=5).seconds) as connection:
        with pytest.raises(Exception, match="read-only"):
            await connection.execute(text("UPDATE jobs SET seq = seq"))
