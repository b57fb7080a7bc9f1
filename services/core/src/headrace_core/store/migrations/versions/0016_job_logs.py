"""The log lines of handlers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_logs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_line", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("lines", sa.JSON(), nullable=False),
        sa.CheckConstraint("attempt >= 1 AND last_line >= 1", name=op.f("job_logs_numbers_check")),
        sa.PrimaryKeyConstraint("job_id", "attempt", "last_line", name=op.f("job_logs_pkey")),
    )


def downgrade() -> None:
    op.drop_table("job_logs")
