"""The history of each minute: counts of jobs, and histograms of waits and runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


class _Xid8(sa.types.UserDefinedType[int]):
    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


_COUNTS = ("submitted", "started", "retried", "succeeded", "failed", "cancelled")


def upgrade() -> None:
    op.create_table(
        "job_minutes",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTS),
        sa.Column("waits", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("runs", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.CheckConstraint(
            "minute > '0001-01-01 00:00:00+00'::timestamptz "
            "AND minute < '9999-12-31 23:59:59.999999+00'::timestamptz",
            name=op.f("job_minutes_times_check"),
        ),
        sa.PrimaryKeyConstraint("tenant", "minute", "queue", "type", name=op.f("job_minutes_pkey")),
    )
    op.create_index("job_minutes_minute_idx", "job_minutes", ["minute"])
    op.create_table(
        "history_place",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("xid", _Xid8(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("singleton", name=op.f("history_place_singleton_check")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("history_place_pkey")),
    )


def downgrade() -> None:
    op.drop_table("history_place")
    op.drop_index("job_minutes_minute_idx", table_name="job_minutes")
    op.drop_table("job_minutes")
