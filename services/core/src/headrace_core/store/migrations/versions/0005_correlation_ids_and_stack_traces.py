"""The correlation id of a job's submit, and the stack trace of its error."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("correlation_id", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("stack_trace", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "stack_trace")
    op.drop_column("jobs", "correlation_id")
