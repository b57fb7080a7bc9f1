"""Tenants, API keys, and the changes of both."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
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
        "tenants",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'active'"), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint(
            "state IN ('active', 'suspended', 'deleting')", name=op.f("tenants_state_check")
        ),
        sa.CheckConstraint(_readable("create_time"), name=op.f("tenants_times_check")),
        sa.PrimaryKeyConstraint("name", name=op.f("tenants_pkey")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("scope", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_use_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoke_time", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "role IN ('viewer', 'operator', 'admin', 'platform')", name=op.f("api_keys_role_check")
        ),
        sa.CheckConstraint("length(secret_hash) = 32", name=op.f("api_keys_hash_check")),
        sa.CheckConstraint(
            _readable("create_time", "expire_time", "last_use_time", "revoke_time"),
            name=op.f("api_keys_times_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("api_keys_pkey")),
    )
    op.create_index("api_keys_tenant_idx", "api_keys", ["tenant", "id"])
    op.create_table(
        "access_version",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("singleton", name=op.f("access_version_singleton_check")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("access_version_pkey")),
    )
    op.create_table(
        "access_changes",
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.CheckConstraint(_readable("time"), name=op.f("access_changes_times_check")),
        sa.PrimaryKeyConstraint("version", name=op.f("access_changes_pkey")),
    )
    op.execute("INSERT INTO access_version (version) VALUES (0)")
    # Each step of the recursion reads one row of an index, however many jobs a tenant has.
    op.execute(
        """
        INSERT INTO tenants (name)
        WITH RECURSIVE used(name) AS (
            (SELECT tenant FROM jobs ORDER BY tenant LIMIT 1)
            UNION ALL
            SELECT (SELECT tenant FROM jobs WHERE tenant > used.name ORDER BY tenant LIMIT 1)
            FROM used WHERE used.name IS NOT NULL
        )
        SELECT name FROM used WHERE name IS NOT NULL
        UNION SELECT tenant FROM workers
        UNION SELECT tenant FROM subscriptions
        UNION SELECT 'default'
        """
    )


def downgrade() -> None:
    op.drop_table("access_changes")
    op.drop_table("access_version")
    op.drop_index("api_keys_tenant_idx", table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("tenants")
