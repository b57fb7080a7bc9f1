"""Quotas, usage and deletion of tenants, and workers for several tenants."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def _readable(*columns: str) -> str:
    """Return the condition that times are in the range of Python and protobuf."""
    first = "'0001-01-01 00:00:00+00'::timestamptz"
    end = "'9999-12-31 23:59:59.999999+00'::timestamptz"
    return " AND ".join(f"{column} > {first} AND {column} < {end}" for column in columns)


def upgrade() -> None:
    for name in ("quotas", "ceilings"):
        op.add_column(
            "tenants",
            sa.Column(name, JSONB(), server_default=sa.text("'{}'"), nullable=False),
        )
    op.add_column("tenants", sa.Column("delete_time", sa.DateTime(timezone=True), nullable=True))
    op.add_column("tenants", sa.Column("deletion_jobs", sa.BigInteger(), nullable=True))
    op.add_column(
        "tenants",
        sa.Column("removed_jobs", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.drop_constraint(op.f("tenants_times_check"), "tenants")
    op.create_check_constraint(
        op.f("tenants_times_check"), "tenants", _readable("create_time", "delete_time")
    )
    op.create_check_constraint(
        op.f("tenants_quotas_check"),
        "tenants",
        "jsonb_typeof(quotas) = 'object' AND jsonb_typeof(ceilings) = 'object'",
    )
    op.create_check_constraint(
        op.f("tenants_deletion_check"),
        "tenants",
        "(state = 'deleting') = (delete_time IS NOT NULL) AND removed_jobs >= 0",
    )
    op.create_index(
        "tenants_inactive_idx", "tenants", ["name"], postgresql_where=sa.text("state <> 'active'")
    )
    op.create_table(
        "tenant_usage",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("waiting_jobs", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("waiting_count_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("payload_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("recount_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("day_jobs", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "waiting_jobs >= 0 AND day_jobs >= 0", name=op.f("tenant_usage_counters_check")
        ),
        sa.CheckConstraint(
            _readable("waiting_count_time", "recount_time"), name=op.f("tenant_usage_times_check")
        ),
        sa.PrimaryKeyConstraint("tenant", name=op.f("tenant_usage_pkey")),
    )
    # Workers of an older version serve only the tenant in `tenant`.
    op.add_column(
        "workers",
        sa.Column("tenants", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
    op.drop_index("worker_handlers_type_idx", table_name="worker_handlers")
    op.create_index("worker_handlers_type_idx", "worker_handlers", ["type"])
    tables = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    for function in (_PAYLOAD_BYTES_OF_JOBS, _PAYLOAD_BYTES_OF_TENANT):
        op.execute(sa.text(function.replace("{tables}", tables)))
    for function in ("payload_bytes_of_jobs(uuid[])", "payload_bytes_of_tenant(text)"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    # `migrate` builds jobs_delayed_idx afterwards, without blocking writers.


def downgrade() -> None:
    op.execute("DROP INDEX IF EXISTS jobs_delayed_idx")
    op.execute("DROP FUNCTION payload_bytes_of_tenant(text)")
    op.execute("DROP FUNCTION payload_bytes_of_jobs(uuid[])")
    op.drop_index("worker_handlers_type_idx", table_name="worker_handlers")
    op.create_index("worker_handlers_type_idx", "worker_handlers", ["tenant", "type"])
    op.drop_column("workers", "tenants")
    op.drop_table("tenant_usage")
    op.drop_index("tenants_inactive_idx", table_name="tenants")
    op.drop_constraint(op.f("tenants_deletion_check"), "tenants")
    op.drop_constraint(op.f("tenants_quotas_check"), "tenants")
    op.drop_constraint(op.f("tenants_times_check"), "tenants")
    op.create_check_constraint(op.f("tenants_times_check"), "tenants", _readable("create_time"))
    for name in ("removed_jobs", "deletion_jobs", "delete_time", "ceilings", "quotas"):
        op.drop_column("tenants", name)


# The scheduler measures payloads without the right to read them. Like those of migration 0006, the
# functions run with the privileges of the tables' owner and qualify all names.
_PAYLOAD_BYTES_OF_JOBS = """
CREATE FUNCTION {tables}.payload_bytes_of_jobs(ids uuid[]) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce(sum(octet_length(j.payload::text)), 0)::bigint
    FROM {tables}.jobs j WHERE j.id = ANY (ids)
$function$
"""

_PAYLOAD_BYTES_OF_TENANT = """
CREATE FUNCTION {tables}.payload_bytes_of_tenant(name text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce(sum(octet_length(j.payload::text)), 0)::bigint
    FROM {tables}.jobs j WHERE j.tenant = name
$function$
"""
