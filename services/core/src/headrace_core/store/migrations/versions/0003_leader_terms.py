"""Leader terms, and retention for each state."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "leadership",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Uuid(), nullable=True),
        sa.Column("lease_expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("singleton", name=op.f("leadership_singleton_check")),
        sa.CheckConstraint("term > 0", name=op.f("leadership_term_check")),
        sa.CheckConstraint(
            "(holder IS NULL) = (lease_expire_time IS NULL)", name=op.f("leadership_lease_check")
        ),
        sa.PrimaryKeyConstraint("singleton", name=op.f("leadership_pkey")),
    )
    _index_ended_jobs("tenant", "state", "end_time", "id")


def downgrade() -> None:
    _index_ended_jobs("tenant", "end_time", "id")
    op.drop_table("leadership")


def _index_ended_jobs(*columns: str) -> None:
    op.drop_index("jobs_ended_idx", table_name="jobs")
    op.create_index(
        "jobs_ended_idx",
        "jobs",
        list(columns),
        postgresql_where=sa.text("end_time IS NOT NULL"),
    )
