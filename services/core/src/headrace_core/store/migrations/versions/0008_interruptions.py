"""The number of consecutive interruptions of a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column("interruptions", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )
    # `migrate` validates it afterwards, so writers do not wait for a scan of the table.
    op.execute(
        "ALTER TABLE jobs ADD CONSTRAINT jobs_interruptions_check "
        "CHECK (interruptions BETWEEN 0 AND attempt) NOT VALID"
    )


def downgrade() -> None:
    op.drop_column("jobs", "interruptions")
