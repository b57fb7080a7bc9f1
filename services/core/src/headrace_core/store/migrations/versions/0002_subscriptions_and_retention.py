"""Named subscriptions, and where the log begins once old events are pruned."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from headrace_core.store.tables import Xid8

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "event_log",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("start_xid", Xid8(), server_default=sa.text("'0'::xid8"), nullable=False),
        sa.Column("start_position", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("singleton", name=op.f("event_log_singleton_check")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("event_log_pkey")),
    )
    op.execute("INSERT INTO event_log DEFAULT VALUES")
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
    op.drop_table("event_log")
