"""SQL functions for handlers: they fence writes to this database and end attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Versions before 0006 created the functions in `headrace` and the tables in a different schema.
    tables = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    for function in (_CHECK_FENCE, _COMPLETE):
        op.execute(sa.text(function.replace("{tables}", tables)))


def downgrade() -> None:
    op.execute("DROP FUNCTION complete(uuid, integer, json)")
    op.execute("DROP FUNCTION check_fence(uuid, integer)")


# Both functions run with the privileges of the tables' owner. To prevent objects of the caller from
# replacing Headrace's objects, pg_temp is last in the path and all other names are qualified.
#
# The lock conflicts only with FOR UPDATE, which each transition to another attempt takes first.
_CHECK_FENCE = """
CREATE FUNCTION {tables}.check_fence(job uuid, attempt integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM FROM {tables}.jobs j
    WHERE j.id = check_fence.job AND j.attempt = check_fence.attempt AND j.state = 'running'
    FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'attempt % of job % is not running',
            check_fence.attempt, check_fence.job
            USING ERRCODE = 'JF001', HINT = 'Roll back: another attempt may be running.';
    END IF;
END
$function$
"""

# The function writes the same rows as a worker (store/jobs/end.py).
_COMPLETE = """
CREATE FUNCTION {tables}.complete(job uuid, attempt integer, result json) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    WITH ended AS (
        UPDATE {tables}.jobs j
        SET state = 'succeeded', seq = j.seq + 1, xid = greatest(j.xid, pg_current_xact_id()),
            result = coalesce(complete.result, 'null'), error = NULL,
            end_time = clock_timestamp(), update_time = clock_timestamp()
        WHERE j.id = complete.job AND j.attempt = complete.attempt AND j.state = 'running'
        RETURNING j.id, j.seq, j.xid, j.tenant, j.state, j.attempt, j.update_time
    )
    INSERT INTO {tables}.job_events (job_id, seq, xid, tenant, type, state, attempt, time)
    SELECT e.id, e.seq, e.xid, e.tenant, 'succeeded', e.state, e.attempt, e.update_time
    FROM ended e;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'attempt % of job % is not running',
            complete.attempt, complete.job
            USING ERRCODE = 'JF001', HINT = 'Roll back: another attempt may be running.';
    END IF;
    -- PostgreSQL notifies the gateways at the commit (wake/topic.py).
    PERFORM pg_notify('headrace_events', '');
END
$function$
"""
