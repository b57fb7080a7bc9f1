"""The tables. The migrations produce exactly this schema; a test compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB
from sqlalchemy.types import UserDefinedType

from headrace_core.domain.access import PrincipalKind, Role, TenantState
from headrace_core.domain.lifecycle import LIFECYCLE, TERMINAL, JobState
from headrace_core.domain.limits import MAX_PRIORITY, MIN_PRIORITY
from headrace_core.store.sql.times import (
    finite_condition,
    readable_interval_condition,
    readable_times_condition,
)


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id, which never wraps."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


def in_list(values: Any) -> str:
    """Return trusted values as the list inside IN (…), such as `'a', 'b'`."""
    return ", ".join(f"'{value}'" for value in values)


metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

_TERMINAL = in_list(sorted(TERMINAL))
_TRANSITIONS = " OR ".join(
    f"(type = '{rule.event}' AND state IN ({in_list(rule.targets)}))" for rule in LIFECYCLE
)


# The time columns, by table.
TIME_COLUMNS: Final[Mapping[str, Sequence[str]]] = {
    "batches": ("create_time",),
    "jobs": (
        *("deadline", "create_time", "due_time", "queue_time", "start_time"),
        *("cancel_request_time", "end_time", "update_time"),
    ),
    "job_events": ("time", "due_time"),
    "workers": ("start_time", "heartbeat_time", "lease_expire_time"),
    "leadership": ("lease_expire_time",),
    "subscriptions": ("lease_expire_time", "create_time", "ack_time"),
    "tenants": ("create_time", "delete_time"),
    "tenant_usage": ("waiting_count_time", "recount_time"),
    "job_minutes": ("minute",),
    "api_keys": ("create_time", "expire_time", "last_use_time", "revoke_time"),
    "access_changes": ("time",),
    "audit_log": ("time",),
    "certificate_bindings": ("create_time",),
    "signing_keys": ("create_time", "expire_time"),
    "users": ("create_time", "last_login_time", "password_time"),
    "sessions": ("create_time", "replace_time", "expire_time", "end_time"),
}

# The condition, by table, under which all times and numbers of a row are readable. CHECKs enforce
# it, except for rows older than migration 0007.
READABLE: Final[Mapping[str, str]] = {
    table: " AND ".join(
        [readable_times_condition(columns)]
        + (
            [readable_interval_condition("timeout"), finite_condition("rank")]
            if table == "jobs"
            else []
        )
    )
    for table, columns in TIME_COLUMNS.items()
}


def _time_column(name: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


# One row, the identity of this database. Cursors and page tokens contain the id and are signed with
# the secret.
installation = Table(
    "installation",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column(
        "secret",
        LargeBinary,
        nullable=False,
        # 32 bytes from the server's strong random source, without an extension.
        server_default=text("uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())"),
    ),
    Column("singleton", Boolean, nullable=False, unique=True, server_default=text("true")),
    CheckConstraint("singleton", name="singleton"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("request_id", Text),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("jobs", Integer, nullable=False),
    Column(
        "create_time",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    CheckConstraint("jobs > 0", name="jobs"),
    CheckConstraint(READABLE["batches"], name="times"),
    Index(
        "batches_request_id_idx",
        "tenant",
        "request_id",
        unique=True,
        postgresql_where=text("request_id IS NOT NULL"),
    ),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("queue", Text, nullable=False),
    # json keeps the exact text, unlike jsonb.
    Column("payload", JSON, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("timeout", Interval),
    _time_column("deadline"),
    Column("retry", JSONB),
    Column("request_id", Text),
    Column("fingerprint", LargeBinary),
    Column("batch_id", Uuid),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("retries_used", Integer, nullable=False, server_default=text("0")),
    Column("worker_losses", Integer, nullable=False, server_default=text("0")),
    Column("seq", Integer, nullable=False, server_default=text("1")),
    Column("progress", JSON),
    Column("result", JSON),
    Column("error", JSON),
    Column("worker_id", Uuid),
    # The order within a lane: the due time in milliseconds since 1970, minus the head start that
    # the priority gives.
    Column("rank", Double, nullable=False),
    _time_column("create_time", nullable=False),
    _time_column("due_time", nullable=False),
    _time_column("queue_time"),
    _time_column("start_time"),
    _time_column("cancel_request_time"),
    _time_column("end_time"),
    _time_column("update_time", nullable=False),
    # The xid of the newest event. The xid of the next event must not be lower (sql/transition.py).
    Column("xid", Xid8, nullable=False, server_default=text("pg_current_xact_id()")),
    # The x-request-id of the submit.
    Column("correlation_id", Text),
    # The stack trace of `error`. Ignore it if `error` is NULL: the SQL function `complete` does not
    # clear it.
    Column("stack_trace", Text),
    # Consecutive interruptions. Every end of an attempt resets the count, except interrupted and
    # worker lost.
    Column("interruptions", Integer, nullable=False, server_default=text("0")),
    # The principal of the submit. The event `submitted` does not repeat it.
    Column("submitted_by", Text),
    # The trace context of the submit: traceparent, and tracestate after a space.
    Column("trace_context", Text),
    CheckConstraint(f"state IN ({in_list(JobState)})", name="state"),
    CheckConstraint(f"priority BETWEEN {MIN_PRIORITY} AND {MAX_PRIORITY}", name="priority"),
    CheckConstraint(
        "attempt >= 0 AND retries_used >= 0 AND worker_losses >= 0 AND seq >= 1", name="counters"
    ),
    CheckConstraint("retries_used <= attempt AND worker_losses <= attempt", name="budget"),
    CheckConstraint("interruptions BETWEEN 0 AND attempt", name="interruptions"),
    CheckConstraint(
        f"(end_time IS NOT NULL) = (state IN ({_TERMINAL}))",
        name="end_time",
    ),
    CheckConstraint(
        "state <> 'running' OR (worker_id IS NOT NULL AND start_time IS NOT NULL AND attempt > 0)",
        name="running",
    ),
    CheckConstraint("state NOT IN ('queued', 'running') OR queue_time IS NOT NULL", name="queued"),
    CheckConstraint("(result IS NOT NULL) = (state = 'succeeded')", name="result"),
    CheckConstraint(
        "state NOT IN ('failed', 'retrying') OR error IS NOT NULL",
        name="error",
    ),
    CheckConstraint("(request_id IS NULL) OR (fingerprint IS NOT NULL)", name="fingerprint"),
    CheckConstraint("jsonb_typeof(labels) = 'object'", name="labels"),
    CheckConstraint(READABLE["jobs"], name="times"),
    Index(
        "jobs_queued_idx",
        "tenant",
        "queue",
        "type",
        "rank",
        "id",
        postgresql_where=text("state = 'queued'"),
    ),
    # Counts the waiting jobs of a tenant, together with jobs_queued_idx. See `upkeep/indexes.py`.
    Index(
        "jobs_delayed_idx",
        "tenant",
        postgresql_where=text("state IN ('scheduled', 'retrying')"),
    ),
    Index(
        "jobs_due_idx",
        "due_time",
        "id",
        postgresql_where=text("state IN ('scheduled', 'retrying')"),
    ),
    Index("jobs_running_idx", "worker_id", "id", postgresql_where=text("state = 'running'")),
    Index(
        "jobs_deadline_idx",
        "deadline",
        postgresql_where=text(f"deadline IS NOT NULL AND state NOT IN ({_TERMINAL})"),
    ),
    Index(
        "jobs_request_id_idx",
        "tenant",
        "request_id",
        unique=True,
        postgresql_where=text("request_id IS NOT NULL"),
    ),
    Index("jobs_tenant_idx", "tenant", "id"),
    # The terminal jobs of each state, the earliest end first.
    Index(
        "jobs_ended_idx",
        "tenant",
        "state",
        "end_time",
        "id",
        postgresql_where=text("end_time IS NOT NULL"),
    ),
    Index("jobs_batch_idx", "batch_id", "id", postgresql_where=text("batch_id IS NOT NULL")),
    Index(
        "jobs_labels_idx",
        "labels",
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
        postgresql_where=text("labels <> '{}'::jsonb"),
    ),
)

job_events = Table(
    "job_events",
    metadata,
    # No foreign key: only the statement that writes a job's row inserts its events, and the check
    # would slow down the hot path.
    Column("job_id", Uuid, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    _time_column("time", nullable=False),
    Column("error", JSON),
    Column("progress", JSON),
    Column("output", JSON),
    _time_column("due_time"),
    Column("worker_id", Uuid),
    # (xid, position) is the place in the event log. `xid` is the transaction that wrote the event,
    # or a transaction with a larger id that wrote an earlier event of the job. The second case
    # arises if the writer got its id first and locked the job second.
    Column("xid", Xid8, nullable=False),
    # The transaction that wrote the event. This default is evaluated before the default of
    # `position`, so a transaction has an id before it takes a position.
    Column("writer", Xid8, nullable=False, server_default=text("pg_current_xact_id()")),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    # The principal that cancelled or requeued the job, and its reason.
    Column("principal", Text),
    Column("reason", Text),
    CheckConstraint("seq >= 1 AND attempt >= 0", name="counters"),
    # The lifecycle events, each with the states that it can lead to.
    CheckConstraint(_TRANSITIONS, name="step"),
    CheckConstraint("(seq = 1) = (type = 'submitted')", name="first"),
    CheckConstraint("(output IS NOT NULL) = (type = 'output')", name="output"),
    CheckConstraint("(progress IS NOT NULL) = (type = 'progressed')", name="progress"),
    CheckConstraint("xid >= writer", name="place"),
    CheckConstraint(READABLE["job_events"], name="times"),
    Index("job_events_position_idx", "xid", "position"),
    # The few events whose xid is larger than their writer.
    Index("job_events_writer_idx", "writer", postgresql_where=text("writer <> xid")),
)

# The lines that handlers logged: consecutive lines of one attempt in each row (store/jobs/logs.py).
job_logs = Table(
    "job_logs",
    metadata,
    # No foreign key, as in job_events.
    Column("job_id", Uuid, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    # The number of the last line within the attempt.
    Column("last_line", Integer, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("lines", JSON, nullable=False),
    CheckConstraint("attempt >= 1 AND last_line >= 1", name="numbers"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Uuid, primary_key=True),
    # The first tenant, or '*' for all tenants.
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    # The workers of a pool have the same types, queues and tenants, and share an arq queue.
    Column("pool", Text, nullable=False),
    # Empty: all queues.
    Column("queues", ARRAY(Text), nullable=False),
    Column("slots", Integer, nullable=False),
    Column("draining", Boolean, nullable=False, server_default=text("false")),
    _time_column("start_time", nullable=False),
    _time_column("heartbeat_time", nullable=False),
    _time_column("lease_expire_time", nullable=False),
    # The further tenants.
    Column("tenants", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    CheckConstraint("slots > 0", name="slots"),
    CheckConstraint("lease_expire_time >= heartbeat_time", name="lease"),
    CheckConstraint(READABLE["workers"], name="times"),
)

worker_handlers = Table(
    "worker_handlers",
    metadata,
    Column("worker_id", Uuid, ForeignKey("workers.id", ondelete="CASCADE"), primary_key=True),
    Column("type", Text, primary_key=True),
    # The first tenant of the worker, for services of older versions.
    Column("tenant", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("payload_schema", JSON, nullable=False),
    Column("result_schema", JSON, nullable=False),
    Column("timeout", Interval, nullable=False),
    Column("retry", JSONB, nullable=False),
    Index("worker_handlers_type_idx", "type"),
)

# The leader of the schedulers. There is no row before the first term.
leadership = Table(
    "leadership",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    # Increases with each new leader. Every scheduler write checks it.
    Column("term", BigInteger, nullable=False),
    Column("holder", Uuid),
    _time_column("lease_expire_time"),
    CheckConstraint("singleton", name="singleton"),
    CheckConstraint("term > 0", name="term"),
    CheckConstraint("(holder IS NULL) = (lease_expire_time IS NULL)", name="lease"),
    CheckConstraint(READABLE["leadership"], name="times"),
)

# The start of a tenant's part of the event log. Events up to this place may have been pruned. If a
# tenant has no row, none of its events were pruned.
event_log = Table(
    "event_log",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("start_xid", Xid8, nullable=False),
    Column("start_position", BigInteger, nullable=False),
    Index("event_log_start_idx", "start_xid", "start_position"),
)

# Pruned jobs with more events than one transaction removes. The first `removed` of `seq` events are
# removed. Without this row, the remaining events could not be found.
pruned_jobs = Table(
    "pruned_jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("removed", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    CheckConstraint("removed > 0 AND removed < seq", name="removed"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    # A reused name gets a new id, so old cursors are rejected.
    Column("id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("filter", JSONB, nullable=False),
    # The acknowledged place.
    Column("xid", Xid8, nullable=False),
    Column("position", BigInteger, nullable=False),
    # The consumer, its watch and the end of its lease. The epoch increases when the consumer
    # changes. An acknowledgement with an earlier epoch is rejected.
    Column("consumer", Text),
    Column("watch_id", Uuid),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    _time_column("lease_expire_time"),
    Column(
        "create_time",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    _time_column("ack_time"),
    CheckConstraint("epoch >= 0", name="epoch"),
    CheckConstraint(READABLE["subscriptions"], name="times"),
    CheckConstraint("jsonb_typeof(filter) = 'object'", name="filter"),
    CheckConstraint(
        "(watch_id IS NULL) = (lease_expire_time IS NULL) "
        "AND (watch_id IS NULL OR consumer IS NOT NULL)",
        name="watch",
    ),
)

tenants = Table(
    "tenants",
    metadata,
    Column("name", Text, primary_key=True),
    Column("state", Text, nullable=False, server_default=text("'active'")),
    Column(
        "create_time",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    # Whether the audit log records each call that reads payloads.
    Column("audit_payload_reads", Boolean, nullable=False, server_default=text("false")),
    # The limits that an admin of the tenant has set, and those that the platform has set.
    Column("quotas", JSONB, nullable=False, server_default=text("'{}'")),
    Column("ceilings", JSONB, nullable=False, server_default=text("'{}'")),
    # The deletion: the time of the request, the number of jobs at the start, and the number of jobs
    # removed so far.
    _time_column("delete_time"),
    Column("deletion_jobs", BigInteger),
    Column("removed_jobs", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint(f"state IN ({in_list(TenantState)})", name="state"),
    CheckConstraint(
        "jsonb_typeof(quotas) = 'object' AND jsonb_typeof(ceilings) = 'object'", name="quotas"
    ),
    CheckConstraint(
        "(state = 'deleting') = (delete_time IS NOT NULL) AND removed_jobs >= 0", name="deletion"
    ),
    CheckConstraint(READABLE["tenants"], name="times"),
    # The tenants whose jobs must not start, usually none.
    Index("tenants_inactive_idx", "name", postgresql_where=text("state <> 'active'")),
)

# The usage of tenants with a quota that the database counts. Each submit of such a tenant locks its
# row until the commit.
tenant_usage = Table(
    "tenant_usage",
    metadata,
    Column("tenant", Text, primary_key=True),
    # The waiting jobs at the last count, plus the jobs submitted since then.
    Column("waiting_jobs", BigInteger, nullable=False, server_default=text("0")),
    _time_column("waiting_count_time"),
    # Submits add to it, and pruning subtracts from it. It can be negative until the next count.
    Column("payload_bytes", BigInteger, nullable=False, server_default=text("0")),
    # The time of the next count of all payloads.
    _time_column("recount_time", nullable=False),
    # The current day in UTC, and the jobs submitted on it.
    Column("day", Date, nullable=False),
    Column("day_jobs", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("waiting_jobs >= 0 AND day_jobs >= 0", name="counters"),
    CheckConstraint(READABLE["tenant_usage"], name="times"),
)

# The events of each minute by queue and type.
job_minutes = Table(
    "job_minutes",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("minute", DateTime(timezone=True), primary_key=True),
    Column("queue", Text, primary_key=True),
    Column("type", Text, primary_key=True),
    *(
        Column(name, BigInteger, nullable=False)
        for name in ("submitted", "started", "retried", "succeeded", "failed", "cancelled")
    ),
    # Counts by the buckets of domain/durations.py: of the time between queueing and start, and of
    # the duration of attempts. The buckets after the last count are left out.
    Column("waits", ARRAY(BigInteger), nullable=False),
    Column("runs", ARRAY(BigInteger), nullable=False),
    CheckConstraint(READABLE["job_minutes"], name="times"),
    Index("job_minutes_minute_idx", "minute"),
)

# At most one row: the place up to which all events are part of `job_minutes`.
history_place = Table(
    "history_place",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("xid", Xid8, nullable=False),
    Column("position", BigInteger, nullable=False),
    CheckConstraint("singleton", name="singleton"),
)

api_keys = Table(
    "api_keys",
    metadata,
    # The public part of the key.
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("role", Text, nullable=False),
    # The entries of the scope.
    Column("scope", ARRAY(Text), nullable=False),
    # SHA-256 of the secret part. It needs no slow hash, because it has 256 random bits.
    Column("secret_hash", LargeBinary, nullable=False),
    Column("created_by", Text, nullable=False),
    Column(
        "create_time",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    _time_column("expire_time"),
    # To the minute, and up to a minute late.
    _time_column("last_use_time"),
    _time_column("revoke_time"),
    CheckConstraint(f"role IN ({in_list(Role)})", name="role"),
    CheckConstraint("length(secret_hash) = 32", name="hash"),
    CheckConstraint(READABLE["api_keys"], name="times"),
    Index("api_keys_tenant_idx", "tenant", "id"),
)

# The principals of client certificates.
certificate_bindings = Table(
    "certificate_bindings",
    metadata,
    # The subject alternative name, such as uri:spiffe://example.com/billing.
    Column("san", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("role", Text, nullable=False),
    # The entries of the scope.
    Column("scope", ARRAY(Text), nullable=False),
    Column("created_by", Text, nullable=False),
    Column(
        "create_time",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    CheckConstraint(f"role IN ({in_list(Role)})", name="role"),
    CheckConstraint("length(san) <= 2052", name="san"),
    CheckConstraint(READABLE["certificate_bindings"], name="times"),
    Index("certificate_bindings_tenant_idx", "tenant", "san"),
)

# The version of all credentials and tenants. Each change locks this row until its commit, so the
# versions of `access_changes` become visible in order.
access_version = Table(
    "access_version",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("singleton", name="singleton"),
)

# Changed credentials and tenants, for the caches and streams of the gateways.
access_changes = Table(
    "access_changes",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column(
        "time",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    CheckConstraint(READABLE["access_changes"], name="times"),
)

# The keys with which the installation signs its tokens.
signing_keys = Table(
    "signing_keys",
    metadata,
    # The public id, which tokens contain.
    Column("id", Text, primary_key=True),
    # The private key of Ed25519.
    Column("seed", LargeBinary, nullable=False),
    Column(
        "create_time",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    # NULL while the key may sign. Replaced keys verify until this time.
    _time_column("expire_time"),
    CheckConstraint("length(seed) = 32", name="seed"),
    CheckConstraint(READABLE["signing_keys"], name="times"),
)

_NO_HASH: Final = text("decode(repeat('00', 32), 'hex')")

# The bounds of each tenant's part of the audit log. Only the triggers and `prune_audit` write here;
# see migration 0012.
audit_chains = Table(
    "audit_chains",
    metadata,
    Column("tenant", Text, primary_key=True),
    # The newest event.
    Column("seq", BigInteger, nullable=False, server_default=text("0")),
    Column("hash", LargeBinary, nullable=False, server_default=_NO_HASH),
    # The newest pruned event.
    Column("start_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("start_hash", LargeBinary, nullable=False, server_default=_NO_HASH),
    CheckConstraint("start_seq >= 0 AND seq >= start_seq", name="seq"),
    CheckConstraint("length(hash) = 32 AND length(start_hash) = 32", name="hash"),
)

# Append-only. A trigger sets `seq`, `time` and `hash`.
audit_log = Table(
    "audit_log",
    metadata,
    # Empty for calls without a tenant.
    Column("tenant", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    _time_column("time", nullable=False),
    Column("principal", Text, nullable=False),
    Column("principal_tenant", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("allowed", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("count", Integer, nullable=False),
    # SHA-256 of the previous hash and of the other columns.
    Column("hash", LargeBinary, nullable=False),
    CheckConstraint(f"kind IN ({in_list(PrincipalKind)})", name="kind"),
    CheckConstraint("seq > 0 AND count > 0", name="counters"),
    CheckConstraint("length(hash) = 32", name="hash"),
    CheckConstraint(READABLE["audit_log"], name="times"),
    Index("audit_log_time_idx", "tenant", "time", "seq"),
    Index("audit_log_principal_idx", "tenant", "principal", "seq"),
)

# People who log in with a password.
users = Table(
    "users",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    # The entries of the scope.
    Column("scope", ARRAY(Text), nullable=False),
    # The Argon2id hash with its parameters and salt.
    Column("password_hash", Text, nullable=False),
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    Column("created_by", Text, nullable=False),
    Column(
        "create_time",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    _time_column("last_login_time"),
    Column(
        "password_time",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    CheckConstraint(f"role IN ({in_list(Role)})", name="role"),
    CheckConstraint("password_hash LIKE '$argon2id$%'", name="hash"),
    CheckConstraint(READABLE["users"], name="times"),
)

# The sessions of users: the family of refresh tokens that follows a login. Ended sessions are kept
# until they expire, because they show from which addresses a user has logged in.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("username", Text, nullable=False),
    # SHA-256 of the secrets of the newest refresh token and of the one before.
    Column("token_hash", LargeBinary, nullable=False),
    Column("previous_hash", LargeBinary),
    # The network address of the login.
    Column("address", Text, nullable=False),
    Column(
        "create_time",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    # The time of the last refresh.
    _time_column("replace_time"),
    Column("expire_time", DateTime(timezone=True), nullable=False),
    _time_column("end_time"),
    ForeignKeyConstraint(
        ["tenant", "username"],
        ["users.tenant", "users.name"],
        name="sessions_user_fkey",
        ondelete="CASCADE",
    ),
    CheckConstraint(
        "length(token_hash) = 32 AND coalesce(length(previous_hash), 32) = 32", name="hash"
    ),
    CheckConstraint("(previous_hash IS NULL) = (replace_time IS NULL)", name="refresh"),
    CheckConstraint(READABLE["sessions"], name="times"),
    Index("sessions_user_idx", "tenant", "username"),
)
