"""Named subscriptions, and the start of the event log after pruning."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from headrace_core.store.sql.tables import Xid8

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "event_log",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("start_xid", Xid8(), nullable=False),
        sa.Column("start_position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("event_log_pkey")),
    )
    op.create_index("event_log_start_idx", "event_log", ["start_xid", "start_position"])
    op.create_table(
        "pruned_jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("removed", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.CheckConstraint("removed > 0 AND removed < seq", name=op.f("pruned_jobs_removed_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("pruned_jobs_pkey")),
    )
    op.create_index(
        "jobs_ended_idx",
        "jobs",
        ["tenant", "end_time", "id"],
        postgresql_where=sa.text("end_time IS NOT NULL"),
    )
    op.create_table(
        "subscriptions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("filter", postgresql.JSONB(), nullable=False),
        sa.Column("xid", Xid8(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("consumer", sa.Text(), nullable=True),
        sa.Column("watch_id", sa.Uuid(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "create_time",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("ack_time", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("epoch >= 0", name=op.f("subscriptions_epoch_check")),
        sa.CheckConstraint(
            "jsonb_typeof(filter) = 'object'", name=op.f("subscriptions_filter_check")
        ),
        sa.CheckConstraint(
            "(watch_id IS NULL) = (lease_expire_time IS NULL) "
            "AND (watch_id IS NULL OR consumer IS NOT NULL)",
            name=op.f("subscriptions_watch_check"),
        ),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("subscriptions_pkey")),
    )


def downgrade() -> None:
    op.drop_table("subscriptions")
    op.drop_index("jobs_ended_idx", table_name="jobs")
    op.drop_table("pruned_jobs")
    op.drop_table("event_log")
