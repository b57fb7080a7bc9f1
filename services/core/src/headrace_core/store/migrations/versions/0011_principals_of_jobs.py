"""The principals that submit, cancel and requeue jobs, and their reasons."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("submitted_by", sa.Text(), nullable=True))
    op.add_column("job_events", sa.Column("principal", sa.Text(), nullable=True))
    op.add_column("job_events", sa.Column("reason", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("job_events", "reason")
    op.drop_column("job_events", "principal")
    op.drop_column("jobs", "submitted_by")
