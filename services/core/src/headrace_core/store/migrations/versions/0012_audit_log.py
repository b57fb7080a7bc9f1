"""The audit log: a chain of events for each tenant, which triggers protect."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_NO_HASH = sa.text("decode(repeat('00', 32), 'hex')")
_KINDS = "'anonymous', 'api_key', 'token', 'user', 'certificate', 'watch_token'"


def _readable(*columns: str) -> str:
    """Return the condition that times are in the range of Python and protobuf."""
    first = "'0001-01-01 00:00:00+00'::timestamptz"
    end = "'9999-12-31 23:59:59.999999+00'::timestamptz"
    return " AND ".join(f"{column} > {first} AND {column} < {end}" for column in columns)


def upgrade() -> None:
    op.create_table(
        "audit_chains",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("hash", sa.LargeBinary(), server_default=_NO_HASH, nullable=False),
        sa.Column("start_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("start_hash", sa.LargeBinary(), server_default=_NO_HASH, nullable=False),
        sa.CheckConstraint(
            "start_seq >= 0 AND seq >= start_seq", name=op.f("audit_chains_seq_check")
        ),
        sa.CheckConstraint(
            "length(hash) = 32 AND length(start_hash) = 32", name=op.f("audit_chains_hash_check")
        ),
        sa.PrimaryKeyConstraint("tenant", name=op.f("audit_chains_pkey")),
    )
    op.create_table(
        "audit_log",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("principal_tenant", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("allowed", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint(f"kind IN ({_KINDS})", name=op.f("audit_log_kind_check")),
        sa.CheckConstraint("seq > 0 AND count > 0", name=op.f("audit_log_counters_check")),
        sa.CheckConstraint("length(hash) = 32", name=op.f("audit_log_hash_check")),
        sa.CheckConstraint(_readable("time"), name=op.f("audit_log_times_check")),
        sa.PrimaryKeyConstraint("tenant", "seq", name=op.f("audit_log_pkey")),
    )
    op.create_index("audit_log_time_idx", "audit_log", ["tenant", "time", "seq"])
    op.create_index("audit_log_principal_idx", "audit_log", ["tenant", "principal", "seq"])
    op.add_column(
        "tenants",
        sa.Column(
            "audit_payload_reads", sa.Boolean(), server_default=sa.text("false"), nullable=False
        ),
    )
    tables = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    for statement in (_APPEND, _PROTECT_EVENTS, _PROTECT_CHAINS, _PRUNE, *_TRIGGERS, _PRIVATE):
        op.execute(sa.text(statement.replace("{tables}", tables)))


def downgrade() -> None:
    op.drop_column("tenants", "audit_payload_reads")
    op.drop_table("audit_log")
    op.drop_table("audit_chains")
    op.execute("DROP FUNCTION prune_audit(text, timestamptz, integer)")
    op.execute("DROP FUNCTION protect_audit_chains()")
    op.execute("DROP FUNCTION protect_audit_log()")
    op.execute("DROP FUNCTION append_audit()")


# The functions run with the privileges of the tables' owner, so a service needs only the privilege
# to insert into `audit_log`. All names are qualified, and pg_temp is last in the path.

# The row lock of the chain puts the events of a tenant in one order until the commit.
# domain/audit.py computes the same hash.
_APPEND = """
CREATE FUNCTION {tables}.append_audit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    chain {tables}.audit_chains;
    newest timestamptz;
    field text;
    content text := '';
BEGIN
    INSERT INTO {tables}.audit_chains (tenant) VALUES (NEW.tenant) ON CONFLICT DO NOTHING;
    SELECT * INTO chain FROM {tables}.audit_chains c WHERE c.tenant = NEW.tenant FOR UPDATE;
    SELECT l.time INTO newest FROM {tables}.audit_log l
    WHERE l.tenant = NEW.tenant AND l.seq = chain.seq;
    NEW.seq := chain.seq + 1;
    NEW.time := greatest(clock_timestamp(), newest);
    FOREACH field IN ARRAY ARRAY[
        NEW.tenant, NEW.seq::text, trunc(extract(epoch FROM NEW.time) * 1000000)::bigint::text,
        NEW.principal, NEW.principal_tenant, NEW.kind, NEW.credential, NEW.address, NEW.method,
        NEW.target, CASE WHEN NEW.allowed THEN 'allowed' ELSE 'denied' END, NEW.reason,
        NEW.count::text
    ] LOOP
        content := content || length(convert_to(field, 'UTF8')) || ':' || field;
    END LOOP;
    NEW.hash := sha256(chain.hash || convert_to(content, 'UTF8'));
    UPDATE {tables}.audit_chains c SET seq = NEW.seq, hash = NEW.hash WHERE c.tenant = NEW.tenant;
    RETURN NEW;
END
$function$
"""

# Pruning moves the start of the chain first, so it needs no exception.
_PROTECT_EVENTS = """
CREATE FUNCTION {tables}.protect_audit_log() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM FROM {tables}.audit_chains c
        WHERE c.tenant = OLD.tenant AND OLD.seq <= c.start_seq;
        IF FOUND THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only'
        USING ERRCODE = 'insufficient_privilege', HINT = 'prune_audit removes old events.';
END
$function$
"""

_PROTECT_CHAINS = """
CREATE FUNCTION {tables}.protect_audit_chains() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.tenant = OLD.tenant AND NEW.start_seq >= OLD.start_seq
            AND NEW.seq - OLD.seq IN (0, 1) AND (NEW.seq > OLD.seq OR NEW.hash = OLD.hash) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the chains of the audit log only grow'
        USING ERRCODE = 'insufficient_privilege';
END
$function$
"""

_PRUNE = """
CREATE FUNCTION {tables}.prune_audit(tenant text, before timestamptz, most integer)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    newest {tables}.audit_log;
    removed integer;
BEGIN
    SELECT oldest.* INTO newest FROM (
        SELECT * FROM {tables}.audit_log l
        WHERE l.tenant = prune_audit.tenant AND l.time < prune_audit.before
        ORDER BY l.time, l.seq LIMIT most
    ) oldest ORDER BY oldest.seq DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    UPDATE {tables}.audit_chains c SET start_seq = newest.seq, start_hash = newest.hash
    WHERE c.tenant = prune_audit.tenant;
    DELETE FROM {tables}.audit_log l WHERE l.tenant = prune_audit.tenant AND l.seq <= newest.seq;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$function$
"""

_TRIGGERS = (
    """
    CREATE TRIGGER append_audit BEFORE INSERT ON {tables}.audit_log
    FOR EACH ROW EXECUTE FUNCTION {tables}.append_audit()
    """,
    """
    CREATE TRIGGER protect_audit_log BEFORE UPDATE OR DELETE ON {tables}.audit_log
    FOR EACH ROW EXECUTE FUNCTION {tables}.protect_audit_log()
    """,
    """
    CREATE TRIGGER protect_audit_log_from_truncate BEFORE TRUNCATE ON {tables}.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION {tables}.protect_audit_log()
    """,
    """
    CREATE TRIGGER protect_audit_chains BEFORE UPDATE OR DELETE ON {tables}.audit_chains
    FOR EACH ROW EXECUTE FUNCTION {tables}.protect_audit_chains()
    """,
    """
    CREATE TRIGGER protect_audit_chains_from_truncate BEFORE TRUNCATE ON {tables}.audit_chains
    FOR EACH STATEMENT EXECUTE FUNCTION {tables}.protect_audit_chains()
    """,
)

# By default, every role may execute a new function.
_PRIVATE = "REVOKE ALL ON FUNCTION {tables}.prune_audit(text, timestamptz, integer) FROM PUBLIC"
