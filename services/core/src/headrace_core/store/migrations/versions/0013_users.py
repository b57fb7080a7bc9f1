"""Users and their sessions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_NOW = sa.text("clock_timestamp()")


def _readable(*columns: str) -> str:
    """Return the condition that times are in the range of Python and protobuf."""
    first = "'0001-01-01 00:00:00+00'::timestamptz"
    end = "'9999-12-31 23:59:59.999999+00'::timestamptz"
    return " AND ".join(f"{column} > {first} AND {column} < {end}" for column in columns)


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("scope", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("disabled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("last_login_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("password_time", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint(
            "role IN ('viewer', 'operator', 'admin', 'platform')", name=op.f("users_role_check")
        ),
        sa.CheckConstraint("password_hash LIKE '$argon2id$%'", name=op.f("users_hash_check")),
        sa.CheckConstraint(
            _readable("create_time", "last_login_time", "password_time"),
            name=op.f("users_times_check"),
        ),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("users_pkey")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=True),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("replace_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "length(token_hash) = 32 AND coalesce(length(previous_hash), 32) = 32",
            name=op.f("sessions_hash_check"),
        ),
        sa.CheckConstraint(
            "(previous_hash IS NULL) = (replace_time IS NULL)", name=op.f("sessions_refresh_check")
        ),
        sa.CheckConstraint(
            _readable("create_time", "replace_time", "expire_time", "end_time"),
            name=op.f("sessions_times_check"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "username"],
            ["users.tenant", "users.name"],
            name=op.f("sessions_user_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("sessions_pkey")),
    )
    op.create_index("sessions_user_idx", "sessions", ["tenant", "username"])


def downgrade() -> None:
    op.drop_index("sessions_user_idx", table_name="sessions")
    op.drop_table("sessions")
    op.drop_table("users")
