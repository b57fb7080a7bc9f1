"""Database constraints, which reject impossible rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from asyncpg import IntegrityConstraintViolationError
from sqlalchemy import text

from headrace_core.store.sql.database import Database

JOB: dict[str, str] = {
    "id": "gen_random_uuid()",
    "tenant": "'default'",
    "type": "'test'",
    "queue": "'default'",
    "payload": "'{}'",
    "priority": "0",
    "labels": "'{}'",
    "state": "'queued'",
    "rank": "0",
    "create_time": "now()",
    "due_time": "now()",
    "queue_time": "now()",
    "update_time": "now()",
}
RUNNING = {
    "state": "'running'",
    "attempt": "1",
    "worker_id": "gen_random_uuid()",
    "start_time": "now()",
}
ENDED = {**RUNNING, "end_time": "now()"}
SUCCEEDED = {**ENDED, "state": "'succeeded'", "result": "'{}'"}
FAILED = {**ENDED, "state": "'failed'", "error": "'{}'"}
RETRYING = {**RUNNING, "state": "'retrying'", "error": "'{}'"}

EVENT: dict[str, str] = {
    "job_id": "gen_random_uuid()",
    "seq": "2",
    "xid": "pg_current_xact_id()",
    "tenant": "'default'",
    "type": "'started'",
    "state": "'running'",
    "attempt": "1",
    "time": "now()",
}

WORKER: dict[str, str] = {
    "id": "gen_random_uuid()",
    "tenant": "'default'",
    "name": "'worker'",
    "pool": "'pool'",
    "queues": "'{}'",
    "slots": "1",
    "start_time": "now()",
    "heartbeat_time": "now()",
    "lease_expire_time": "now()",
}

LEADERSHIP: dict[str, str] = {
    "term": "1",
    "holder": "gen_random_uuid()",
    "lease_expire_time": "now()",
}

BATCH: dict[str, str] = {
    "id": "gen_random_uuid()",
    "tenant": "'default'",
    "fingerprint": "'a'",
    "jobs": "1",
}

SUBSCRIPTION: dict[str, str] = {
    "tenant": "'default'",
    "name": "'billing'",
    "filter": "'{}'",
    "xid": "'1'",
    "position": "1",
}
WATCHED: dict[str, str] = {
    **SUBSCRIPTION,
    "name": "'watched'",
    "consumer": "'one'",
    "watch_id": "gen_random_uuid()",
    "lease_expire_time": "now()",
}

PRUNED: dict[str, str] = {"id": "gen_random_uuid()", "removed": "1", "seq": "2"}

TENANT: dict[str, str] = {"name": "'acme'"}
DELETED_TENANT: dict[str, str] = {
    "name": "'old'",
    "state": "'deleting'",
    "delete_time": "now()",
}
TENANT_USAGE: dict[str, str] = {
    "tenant": "'acme'",
    "recount_time": "now()",
    "day": "CAST(now() AS date)",
}
API_KEY: dict[str, str] = {
    "id": "'k'",
    "tenant": "'default'",
    "principal": "'ada'",
    "role": "'admin'",
    "scope": "'{}'",
    "secret_hash": "decode(repeat('00', 32), 'hex')",
    "created_by": "'ada'",
}
BINDING: dict[str, str] = {
    "san": "'dns:example.com'",
    "tenant": "'default'",
    "principal": "'ada'",
    "role": "'viewer'",
    "scope": "'{}'",
    "created_by": "'ada'",
}
JOB_LOG: dict[str, str] = {
    "job_id": "gen_random_uuid()",
    "attempt": "1",
    "last_line": "1",
    "tenant": "'default'",
    "lines": "'[]'",
}
JOB_MINUTE: dict[str, str] = {
    "tenant": "'default'",
    "minute": "now()",
    "queue": "'default'",
    "type": "'test'",
    **dict.fromkeys(("submitted", "started", "retried", "succeeded", "failed", "cancelled"), "0"),
    "waits": "'{}'",
    "runs": "'{}'",
}
HISTORY_PLACE: dict[str, str] = {"xid": "pg_current_xact_id()", "position": "1"}
CHANGE: dict[str, str] = {
    "version": "1",
    "tenant": "'default'",
    "kind": "'api_key'",
    "subject": "'k'",
}
SIGNING_KEY: dict[str, str] = {"id": "'k'", "seed": "decode(repeat('00', 32), 'hex')"}

AUDIT_CHAIN: dict[str, str] = {"tenant": "'default'"}
AUDIT_EVENT: dict[str, str] = {
    "tenant": "'default'",
    "seq": "1",
    "time": "now()",
    "principal": "'ada'",
    "principal_tenant": "'default'",
    "kind": "'api_key'",
    "credential": "'k'",
    "address": "'::1'",
    "method": "'AccessService/CreateApiKey'",
    "target": "''",
    "allowed": "true",
    "reason": "''",
    "count": "1",
    "hash": "decode(repeat('00', 32), 'hex')",
}
USER: dict[str, str] = {
    "tenant": "'default'",
    "name": "'ada'",
    "role": "'admin'",
    "scope": "'{}'",
    "password_hash": "'$argon2id$'",
    "created_by": "'ada'",
}
SESSION: dict[str, str] = {
    "id": "gen_random_uuid()",
    "tenant": "'default'",
    "username": "'ada'",
    "token_hash": "decode(repeat('00', 32), 'hex')",
    "address": "'10.0.0.7'",
    "expire_time": "now()",
}
REFRESHED = {**SESSION, "previous_hash": SESSION["token_hash"], "replace_time": "now()"}

# A valid row of each table, and the time columns of each table.
TIME_COLUMNS: list[tuple[str, dict[str, str], Sequence[str]]] = [
    (
        "jobs",
        {**JOB, **SUCCEEDED},
        (
            *("deadline", "create_time", "due_time", "queue_time", "start_time"),
            *("cancel_request_time", "end_time", "update_time"),
        ),
    ),
    ("job_events", EVENT, ("time", "due_time")),
    ("workers", WORKER, ("start_time",)),
    ("batches", BATCH, ("create_time",)),
    ("leadership", LEADERSHIP, ("lease_expire_time",)),
    ("subscriptions", WATCHED, ("lease_expire_time", "create_time", "ack_time")),
    ("tenants", DELETED_TENANT, ("create_time", "delete_time")),
    ("tenant_usage", TENANT_USAGE, ("waiting_count_time", "recount_time")),
    (
        "api_keys",
        API_KEY,
        ("create_time", "expire_time", "last_use_time", "revoke_time"),
    ),
    ("access_changes", CHANGE, ("time",)),
    ("job_minutes", JOB_MINUTE, ("minute",)),
    ("audit_log", AUDIT_EVENT, ("time",)),
    ("certificate_bindings", BINDING, ("create_time",)),
    ("signing_keys", SIGNING_KEY, ("create_time", "expire_time")),
    ("users", USER, ("create_time", "last_login_time", "password_time")),
    ("sessions", REFRESHED, ("create_time", "replace_time", "expire_time", "end_time")),
]
UNREADABLE_TIMES = (
    *("'infinity'", "'-infinity'", "'10000-01-01'", "'0001-01-01 BC'"),
    *("'9999-12-31 23:59:59.999999+00'", "'0001-01-01 00:00:00+00'"),
)

# A table, a valid row, a change that makes it invalid, and the constraint that rejects it.
INVALID_ROWS: list[tuple[str, dict[str, str], dict[str, str], str]] = [
    ("jobs", JOB, {"state": "'sleeping'"}, "jobs_state_check"),
    ("jobs", JOB, {"state": "'QUEUED'"}, "jobs_state_check"),
    ("jobs", JOB, {"priority": "101"}, "jobs_priority_check"),
    ("jobs", JOB, {"priority": "-101"}, "jobs_priority_check"),
    ("jobs", JOB, {"attempt": "-1"}, "jobs_budget_check"),
    ("jobs", JOB, {"retries_used": "-1"}, "jobs_counters_check"),
    ("jobs", JOB, {"worker_losses": "-1"}, "jobs_counters_check"),
    ("jobs", JOB, {"seq": "0"}, "jobs_counters_check"),
    ("jobs", JOB, {"retries_used": "1"}, "jobs_budget_check"),
    ("jobs", JOB, {"worker_losses": "1"}, "jobs_budget_check"),
    ("jobs", JOB, {"interruptions": "-1"}, "jobs_interruptions_check"),
    ("jobs", JOB, {"interruptions": "1"}, "jobs_interruptions_check"),
    ("jobs", JOB, {"end_time": "now()"}, "jobs_end_time_check"),
    ("jobs", RUNNING, {"end_time": "now()"}, "jobs_end_time_check"),
    ("jobs", SUCCEEDED, {"end_time": "NULL"}, "jobs_end_time_check"),
    ("jobs", FAILED, {"end_time": "NULL"}, "jobs_end_time_check"),
    ("jobs", JOB, {"state": "'cancelled'"}, "jobs_end_time_check"),
    ("jobs", RUNNING, {"worker_id": "NULL"}, "jobs_running_check"),
    ("jobs", RUNNING, {"start_time": "NULL"}, "jobs_running_check"),
    ("jobs", RUNNING, {"attempt": "0"}, "jobs_running_check"),
    ("jobs", JOB, {"queue_time": "NULL"}, "jobs_queued_check"),
    ("jobs", RUNNING, {"queue_time": "NULL"}, "jobs_queued_check"),
    ("jobs", JOB, {"result": "'{}'"}, "jobs_result_check"),
    ("jobs", FAILED, {"result": "'{}'"}, "jobs_result_check"),
    ("jobs", SUCCEEDED, {"result": "NULL"}, "jobs_result_check"),
    ("jobs", FAILED, {"error": "NULL"}, "jobs_error_check"),
    ("jobs", RETRYING, {"error": "NULL"}, "jobs_error_check"),
    ("jobs", JOB, {"request_id": "'once'"}, "jobs_fingerprint_check"),
    ("jobs", JOB, {"labels": "'[]'"}, "jobs_labels_check"),
    ("jobs", JOB, {"labels": "'null'"}, "jobs_labels_check"),
    *(
        (table, row, {name: time}, f"{table}_times_check")
        for table, row, names in TIME_COLUMNS
        for name in names
        for time in UNREADABLE_TIMES
    ),
    *(("jobs", JOB, {"rank": rank}, "jobs_times_check") for rank in ("'NaN'", "'Infinity'")),
    *(
        ("jobs", JOB, {"timeout": timeout}, "jobs_times_check")
        for timeout in ("'0'", "'-1 s'", "'3651 days'", "'3000000 years'")
    ),
    *(("jobs", JOB, {name: "NULL"}, f'"{name}"') for name in JOB if name != "queue_time"),
    ("job_events", EVENT, {"type": "'vanished'"}, "job_events_step_check"),
    ("job_events", EVENT, {"state": "'sleeping'"}, "job_events_step_check"),
    ("job_events", EVENT, {"state": "'queued'"}, "job_events_step_check"),
    ("job_events", EVENT, {"xid": "'1'"}, "job_events_place_check"),
    ("job_events", EVENT, {"seq": "0"}, "job_events_counters_check"),
    ("job_events", EVENT, {"attempt": "-1"}, "job_events_counters_check"),
    ("job_events", EVENT, {"seq": "1"}, "job_events_first_check"),
    (
        "job_events",
        EVENT,
        {"type": "'submitted'", "state": "'queued'"},
        "job_events_first_check",
    ),
    ("job_events", EVENT, {"output": "'1'"}, "job_events_output_check"),
    ("job_events", EVENT, {"type": "'output'"}, "job_events_output_check"),
    ("job_events", EVENT, {"progress": "'{}'"}, "job_events_progress_check"),
    ("job_events", EVENT, {"type": "'progressed'"}, "job_events_progress_check"),
    *(("job_events", EVENT, {name: "NULL"}, f'"{name}"') for name in EVENT),
    ("workers", WORKER, {"slots": "0"}, "workers_slots_check"),
    (
        "workers",
        WORKER,
        {"lease_expire_time": "now() - interval '1 s'"},
        "workers_lease_check",
    ),
    *(("workers", WORKER, {name: "NULL"}, f'"{name}"') for name in WORKER),
    ("batches", BATCH, {"jobs": "0"}, "batches_jobs_check"),
    *(("batches", BATCH, {name: "NULL"}, f'"{name}"') for name in BATCH),
    ("leadership", LEADERSHIP, {"singleton": "false"}, "leadership_singleton_check"),
    ("leadership", LEADERSHIP, {"term": "0"}, "leadership_term_check"),
    ("leadership", LEADERSHIP, {"holder": "NULL"}, "leadership_lease_check"),
    ("leadership", LEADERSHIP, {"lease_expire_time": "NULL"}, "leadership_lease_check"),
    ("job_logs", JOB_LOG, {"attempt": "0"}, "job_logs_numbers_check"),
    ("job_logs", JOB_LOG, {"last_line": "0"}, "job_logs_numbers_check"),
    ("history_place", HISTORY_PLACE, {"singleton": "false"}, "history_place_singleton_check"),
    ("pruned_jobs", PRUNED, {"removed": "6"}, "pruned_jobs_removed_check"),
    ("pruned_jobs", PRUNED, {"removed": "0"}, "pruned_jobs_removed_check"),
    ("subscriptions", SUBSCRIPTION, {"epoch": "-1"}, "subscriptions_epoch_check"),
    ("subscriptions", SUBSCRIPTION, {"filter": "'[]'"}, "subscriptions_filter_check"),
    (
        "subscriptions",
        SUBSCRIPTION,
        {"watch_id": "gen_random_uuid()", "lease_expire_time": "now()"},
        "subscriptions_watch_check",
    ),
    (
        "subscriptions",
        SUBSCRIPTION,
        {"watch_id": "gen_random_uuid()", "consumer": "'one'"},
        "subscriptions_watch_check",
    ),
    ("subscriptions", SUBSCRIPTION, {"epoch": "-1"}, "subscriptions_epoch_check"),
    ("subscriptions", SUBSCRIPTION, {"filter": "'[]'"}, "subscriptions_filter_check"),
    ("subscriptions", WATCHED, {"watch_id": "NULL"}, "subscriptions_watch_check"),
    ("subscriptions", WATCHED, {"lease_expire_time": "NULL"}, "subscriptions_watch_check"),
    ("subscriptions", WATCHED, {"consumer": "NULL"}, "subscriptions_watch_check"),
    *(("subscriptions", SUBSCRIPTION, {name: "NULL"}, f'"{name}"') for name in SUBSCRIPTION),
    ("pruned_jobs", PRUNED, {"removed": "0"}, "pruned_jobs_removed_check"),
    ("pruned_jobs", PRUNED, {"removed": "2"}, "pruned_jobs_removed_check"),
    *(("pruned_jobs", PRUNED, {name: "NULL"}, f'"{name}"') for name in PRUNED),
    ("tenants", TENANT, {"state": "'closed'"}, "tenants_state_check"),
    ("tenants", TENANT, {"quotas": "'[]'"}, "tenants_quotas_check"),
    ("tenants", TENANT, {"ceilings": "'1'"}, "tenants_quotas_check"),
    ("tenants", TENANT, {"state": "'deleting'"}, "tenants_deletion_check"),
    ("tenants", TENANT, {"delete_time": "now()"}, "tenants_deletion_check"),
    ("tenants", TENANT, {"removed_jobs": "-1"}, "tenants_deletion_check"),
    ("tenant_usage", TENANT_USAGE, {"waiting_jobs": "-1"}, "tenant_usage_counters_check"),
    ("tenant_usage", TENANT_USAGE, {"day_jobs": "-1"}, "tenant_usage_counters_check"),
    *(("tenant_usage", TENANT_USAGE, {name: "NULL"}, f'"{name}"') for name in TENANT_USAGE),
    *(("tenants", TENANT, {name: "NULL"}, f'"{name}"') for name in TENANT),
    ("api_keys", API_KEY, {"role": "'owner'"}, "api_keys_role_check"),
    ("api_keys", API_KEY, {"secret_hash": "'a'"}, "api_keys_hash_check"),
    *(("api_keys", API_KEY, {name: "NULL"}, f'"{name}"') for name in API_KEY),
    ("certificate_bindings", BINDING, {"role": "'owner'"}, "certificate_bindings_role_check"),
    (
        "certificate_bindings",
        BINDING,
        {"san": "repeat('a', 2053)"},
        "certificate_bindings_san_check",
    ),
    *(("certificate_bindings", BINDING, {name: "NULL"}, f'"{name}"') for name in BINDING),
    *(("access_changes", CHANGE, {name: "NULL"}, f'"{name}"') for name in CHANGE),
    ("signing_keys", SIGNING_KEY, {"seed": "'a'"}, "signing_keys_seed_check"),
    *(("signing_keys", SIGNING_KEY, {name: "NULL"}, f'"{name}"') for name in SIGNING_KEY),
    ("audit_chains", AUDIT_CHAIN, {"seq": "-1"}, "audit_chains_seq_check"),
    ("audit_chains", AUDIT_CHAIN, {"start_seq": "1"}, "audit_chains_seq_check"),
    ("audit_chains", AUDIT_CHAIN, {"hash": "'a'"}, "audit_chains_hash_check"),
    ("audit_chains", AUDIT_CHAIN, {"start_hash": "'a'"}, "audit_chains_hash_check"),
    ("audit_chains", AUDIT_CHAIN, {"tenant": "NULL"}, '"tenant"'),
    ("audit_log", AUDIT_EVENT, {"kind": "'root'"}, "audit_log_kind_check"),
    ("audit_log", AUDIT_EVENT, {"seq": "0"}, "audit_log_counters_check"),
    ("audit_log", AUDIT_EVENT, {"count": "0"}, "audit_log_counters_check"),
    ("audit_log", AUDIT_EVENT, {"hash": "'a'"}, "audit_log_hash_check"),
    *(("audit_log", AUDIT_EVENT, {name: "NULL"}, f'"{name}"') for name in AUDIT_EVENT),
    ("users", USER, {"role": "'owner'"}, "users_role_check"),
    ("users", USER, {"password_hash": "'secret'"}, "users_hash_check"),
    *(("users", USER, {name: "NULL"}, f'"{name}"') for name in USER),
    ("sessions", SESSION, {"token_hash": "'a'"}, "sessions_hash_check"),
    ("sessions", REFRESHED, {"previous_hash": "'a'"}, "sessions_hash_check"),
    ("sessions", SESSION, {"replace_time": "now()"}, "sessions_refresh_check"),
    ("sessions", SESSION, {}, "sessions_user_fkey"),
    *(("sessions", SESSION, {name: "NULL"}, f'"{name}"') for name in SESSION),
    (
        "access_version",
        {"version": "0"},
        {"singleton": "false"},
        "access_version_singleton_check",
    ),
    (
        "worker_handlers",
        {
            "worker_id": "gen_random_uuid()",
            "type": "'test'",
            "tenant": "'default'",
            "queue": "'default'",
            "description": "''",
            "payload_schema": "'{}'",
            "result_schema": "'{}'",
            "timeout": "'1 s'",
            "retry": "'{}'",
        },
        {},
        "worker_handlers_worker_id_fkey",
    ),
]

VALID_ROWS = [
    ("jobs", {**JOB, "deadline": "'9999-12-31 23:59:59+00'", "timeout": "'3650 days'"}),
    ("jobs", {**JOB, "deadline": "'0001-01-02'"}),
    ("jobs", JOB),
    ("jobs", {**JOB, "state": "'scheduled'", "queue_time": "NULL"}),
    ("jobs", {**JOB, **RUNNING}),
    ("jobs", {**JOB, **RETRYING}),
    ("jobs", {**JOB, **SUCCEEDED}),
    ("jobs", {**JOB, **FAILED}),
    ("jobs", {**JOB, "state": "'cancelled'", "end_time": "now()"}),
    ("job_events", EVENT),
    ("workers", WORKER),
    ("batches", BATCH),
    ("leadership", LEADERSHIP),
    ("pruned_jobs", PRUNED),
    ("subscriptions", SUBSCRIPTION),
    ("tenants", TENANT),
    ("tenants", DELETED_TENANT),
    ("tenant_usage", TENANT_USAGE),
    ("api_keys", API_KEY),
    ("access_changes", CHANGE),
    ("job_logs", JOB_LOG),
    ("job_minutes", JOB_MINUTE),
    ("history_place", HISTORY_PLACE),
    ("certificate_bindings", BINDING),
    ("signing_keys", SIGNING_KEY),
    ("audit_chains", AUDIT_CHAIN),
    ("audit_log", AUDIT_EVENT),
    ("users", USER),
    ("sessions", SESSION),
    ("sessions", REFRESHED),
]


async def insert(database: Database, table: str, row: dict[str, str]) -> None:
    statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(row.values())})"
    async with database.transaction() as connection:
        if table == "audit_log":
            # The trigger of this table sets the time and the hash.
            await connection.execute(text("SET LOCAL session_replication_role = replica"))
        await connection.execute(text(statement))


async def test_valid_row_is_accepted(database: Database) -> None:
    for table, row in VALID_ROWS:
        await insert(database, table, row)


async def test_invalid_row_is_rejected(database: Database, subtests: pytest.Subtests) -> None:
    for table, good, bad, constraint in INVALID_ROWS:
        with subtests.test(table=table, bad=bad):
            row: dict[str, Any] = {**(JOB if table == "jobs" else {}), **good, **bad}
            with pytest.raises(IntegrityConstraintViolationError, match=constraint):
                await insert(database, table, row)


async def test_each_check_rejects_a_row(database: Database) -> None:
    async with database.transaction() as connection:
        names = await connection.scalars(
            text(
                "SELECT conname FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid "
                "WHERE contype = 'c' AND relnamespace = 'headrace'::regnamespace"
            )
        )
    # test_schema covers the check of the `installation` table.
    assert set(names) - {constraint for *_, constraint in INVALID_ROWS} == {
        "installation_singleton_check"
    }


async def test_duplicate_keys_and_event_numbers_are_rejected(database: Database) -> None:
    keyed = {**JOB, "request_id": "'once'", "fingerprint": "'a'"}
    event = {**EVENT, "job_id": "'00000000-0000-7000-8000-000000000000'"}
    batch = {**BATCH, "request_id": "'once'"}
    for table, row, constraint in (
        ("jobs", keyed, "jobs_request_id_idx"),
        ("job_events", event, "job_events_pkey"),
        ("batches", batch, "batches_request_id_idx"),
    ):
        await insert(database, table, row)
        with pytest.raises(IntegrityConstraintViolationError, match=constraint):
            await insert(database, table, row)
