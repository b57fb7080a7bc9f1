"""The keys with which the installation signs its tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def _readable(*columns: str) -> str:
    """Return the condition that times are in the range of Python and protobuf."""
    first = "'0001-01-01 00:00:00+00'::timestamptz"
    end = "'9999-12-31 23:59:59.999999+00'::timestamptz"
    return " AND ".join(f"{column} > {first} AND {column} < {end}" for column in columns)


def upgrade() -> None:
    op.create_table(
        "signing_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seed", sa.LargeBinary(), nullable=False),
        sa.Column(
            "create_time",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("length(seed) = 32", name=op.f("signing_keys_seed_check")),
        sa.CheckConstraint(
            _readable("create_time", "expire_time"), name=op.f("signing_keys_times_check")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("signing_keys_pkey")),
    )


def downgrade() -> None:
    op.drop_table("signing_keys")
