"""The principals of client certificates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "certificate_bindings",
        sa.Column("san", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("scope", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "create_time",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "role IN ('viewer', 'operator', 'admin', 'platform')",
            name=op.f("certificate_bindings_role_check"),
        ),
        sa.CheckConstraint("length(san) <= 2052", name=op.f("certificate_bindings_san_check")),
        sa.CheckConstraint(
            "create_time > '0001-01-01 00:00:00+00'::timestamptz AND "
            "create_time < '9999-12-31 23:59:59.999999+00'::timestamptz",
            name=op.f("certificate_bindings_times_check"),
        ),
        sa.PrimaryKeyConstraint("san", name=op.f("certificate_bindings_pkey")),
    )
    op.create_index("certificate_bindings_tenant_idx", "certificate_bindings", ["tenant", "san"])


def downgrade() -> None:
    op.drop_index("certificate_bindings_tenant_idx", table_name="certificate_bindings")
    op.drop_table("certificate_bindings")
