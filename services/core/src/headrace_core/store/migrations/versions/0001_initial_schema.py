"""The initial schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from headrace_core.store.sql.tables import Xid8

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column(
            "create_time",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("jobs > 0", name=op.f("batches_jobs_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("batches_pkey")),
    )
    op.create_index(
        "batches_request_id_idx",
        "batches",
        ["tenant", "request_id"],
        unique=True,
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
    op.create_table(
        "installation",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column(
            "secret",
            sa.LargeBinary(),
            server_default=sa.text("uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())"),
            nullable=False,
        ),
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.CheckConstraint("singleton", name=op.f("installation_singleton_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("installation_pkey")),
        sa.UniqueConstraint("singleton", name=op.f("installation_singleton_key")),
    )
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("progress", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("output", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("due_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker_id", sa.Uuid(), nullable=True),
        sa.Column("xid", Xid8(), nullable=False),
        sa.Column("writer", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.CheckConstraint(
            "(output IS NOT NULL) = (type = 'output')", name=op.f("job_events_output_check")
        ),
        sa.CheckConstraint(
            "(progress IS NOT NULL) = (type = 'progressed')", name=op.f("job_events_progress_check")
        ),
        sa.CheckConstraint("(seq = 1) = (type = 'submitted')", name=op.f("job_events_first_check")),
        sa.CheckConstraint(
            "(type = 'submitted' AND state IN ('queued', 'scheduled')) OR (type = 'due' AND state IN ('queued')) OR (type = 'started' AND state IN ('running')) OR (type = 'progressed' AND state IN ('running')) OR (type = 'output' AND state IN ('running')) OR (type = 'succeeded' AND state IN ('succeeded')) OR (type = 'retry_scheduled' AND state IN ('retrying')) OR (type = 'failed' AND state IN ('failed')) OR (type = 'interrupted' AND state IN ('queued')) OR (type = 'worker_lost' AND state IN ('queued', 'failed')) OR (type = 'cancel_requested' AND state IN ('running')) OR (type = 'cancelled' AND state IN ('cancelled')) OR (type = 'expired' AND state IN ('failed')) OR (type = 'requeued' AND state IN ('queued'))",
            name=op.f("job_events_step_check"),
        ),
        sa.CheckConstraint("seq >= 1 AND attempt >= 0", name=op.f("job_events_counters_check")),
        sa.CheckConstraint("xid >= writer", name=op.f("job_events_place_check")),
        sa.PrimaryKeyConstraint("job_id", "seq", name=op.f("job_events_pkey")),
    )
    op.create_index("job_events_position_idx", "job_events", ["xid", "position"], unique=False)
    op.create_index(
        "job_events_writer_idx",
        "job_events",
        ["writer"],
        unique=False,
        postgresql_where=sa.text("writer <> xid"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("timeout", sa.Interval(), nullable=True),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retry", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("retries_used", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker_losses", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("seq", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("progress", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("result", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("worker_id", sa.Uuid(), nullable=True),
        sa.Column("rank", sa.Double(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("queue_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_request_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.CheckConstraint(
            "(end_time IS NOT NULL) = (state IN ('cancelled', 'failed', 'succeeded'))",
            name=op.f("jobs_end_time_check"),
        ),
        sa.CheckConstraint(
            "(result IS NOT NULL) = (state = 'succeeded')", name=op.f("jobs_result_check")
        ),
        sa.CheckConstraint("jsonb_typeof(labels) = 'object'", name=op.f("jobs_labels_check")),
        sa.CheckConstraint(
            "state <> 'running' OR (worker_id IS NOT NULL AND start_time IS NOT NULL AND attempt > 0)",
            name=op.f("jobs_running_check"),
        ),
        sa.CheckConstraint(
            "state IN ('scheduled', 'queued', 'running', 'retrying', 'succeeded', 'failed', 'cancelled')",
            name=op.f("jobs_state_check"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('failed', 'retrying') OR error IS NOT NULL",
            name=op.f("jobs_error_check"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('queued', 'running') OR queue_time IS NOT NULL",
            name=op.f("jobs_queued_check"),
        ),
        sa.CheckConstraint(
            "(request_id IS NULL) OR (fingerprint IS NOT NULL)", name=op.f("jobs_fingerprint_check")
        ),
        sa.CheckConstraint(
            "attempt >= 0 AND retries_used >= 0 AND worker_losses >= 0 AND seq >= 1",
            name=op.f("jobs_counters_check"),
        ),
        sa.CheckConstraint("priority BETWEEN -100 AND 100", name=op.f("jobs_priority_check")),
        sa.CheckConstraint(
            "retries_used <= attempt AND worker_losses <= attempt", name=op.f("jobs_budget_check")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("jobs_pkey")),
    )
    op.create_index(
        "jobs_batch_idx",
        "jobs",
        ["batch_id", "id"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "jobs_deadline_idx",
        "jobs",
        ["deadline"],
        unique=False,
        postgresql_where=sa.text(
            "deadline IS NOT NULL AND state NOT IN ('cancelled', 'failed', 'succeeded')"
        ),
    )
    op.create_index(
        "jobs_due_idx",
        "jobs",
        ["due_time", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('scheduled', 'retrying')"),
    )
    op.create_index(
        "jobs_labels_idx",
        "jobs",
        ["labels"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
        postgresql_where=sa.text("labels <> '{}'::jsonb"),
    )
    op.create_index(
        "jobs_queued_idx",
        "jobs",
        ["tenant", "queue", "type", "rank", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "jobs_request_id_idx",
        "jobs",
        ["tenant", "request_id"],
        unique=True,
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
    op.create_index(
        "jobs_running_idx",
        "jobs",
        ["worker_id", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index("jobs_tenant_idx", "jobs", ["tenant", "id"], unique=False)
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("draining", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("lease_expire_time >= heartbeat_time", name=op.f("workers_lease_check")),
        sa.CheckConstraint("slots > 0", name=op.f("workers_slots_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("workers_pkey")),
    )
    op.create_table(
        "worker_handlers",
        sa.Column("worker_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("payload_schema", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("result_schema", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("timeout", sa.Interval(), nullable=False),
        sa.Column("retry", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["worker_id"],
            ["workers.id"],
            name=op.f("worker_handlers_worker_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("worker_id", "type", name=op.f("worker_handlers_pkey")),
    )
    op.create_index("worker_handlers_type_idx", "worker_handlers", ["tenant", "type"], unique=False)
    op.execute("INSERT INTO installation DEFAULT VALUES")


def downgrade() -> None:
    op.drop_index("worker_handlers_type_idx", table_name="worker_handlers")
    op.drop_table("worker_handlers")
    op.drop_table("workers")
    op.drop_index("jobs_tenant_idx", table_name="jobs")
    op.drop_index(
        "jobs_running_idx", table_name="jobs", postgresql_where=sa.text("state = 'running'")
    )
    op.drop_index(
        "jobs_request_id_idx", table_name="jobs", postgresql_where=sa.text("request_id IS NOT NULL")
    )
    op.drop_index(
        "jobs_queued_idx", table_name="jobs", postgresql_where=sa.text("state = 'queued'")
    )
    op.drop_index(
        "jobs_labels_idx",
        table_name="jobs",
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
        postgresql_where=sa.text("labels <> '{}'::jsonb"),
    )
    op.drop_index(
        "jobs_due_idx",
        table_name="jobs",
        postgresql_where=sa.text("state IN ('scheduled', 'retrying')"),
    )
    op.drop_index(
        "jobs_deadline_idx",
        table_name="jobs",
        postgresql_where=sa.text(
            "deadline IS NOT NULL AND state NOT IN ('cancelled', 'failed', 'succeeded')"
        ),
    )
    op.drop_index(
        "jobs_batch_idx", table_name="jobs", postgresql_where=sa.text("batch_id IS NOT NULL")
    )
    op.drop_table("jobs")
    op.drop_index(
        "job_events_writer_idx",
        table_name="job_events",
        postgresql_where=sa.text("writer <> xid"),
    )
    op.drop_index("job_events_position_idx", table_name="job_events")
    op.drop_table("job_events")
    op.drop_table("installation")
    op.drop_index(
        "batches_request_id_idx",
        table_name="batches",
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
    op.drop_table("batches")
