"""Constraints that reject unreadable times, and requeues that lead to SCHEDULED.

Older rows may have unreadable times, so the constraints begin as NOT VALID. A trigger clamps the
times of a job or an event when its row is updated. Without the trigger, one such row would fail
every statement that updates it together with other rows. `migrate` validates the constraints and
drops the triggers when no such row is left (store/upkeep/clamp.py).
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_FIRST = "'0001-01-01 00:00:00+00'::timestamptz"
_END = "'9999-12-31 23:59:59.999999+00'::timestamptz"

_TIMES = {
    "batches": ("create_time",),
    "jobs": (
        *("deadline", "create_time", "due_time", "queue_time", "start_time"),
        *("cancel_request_time", "end_time", "update_time"),
    ),
    "job_events": ("time", "due_time"),
    "workers": ("start_time", "heartbeat_time", "lease_expire_time"),
    "leadership": ("lease_expire_time",),
    "subscriptions": ("lease_expire_time", "create_time", "ack_time"),
}


def _readable(table: str, row: str = "") -> str:
    conditions = [f"{row}{name} > {_FIRST} AND {row}{name} < {_END}" for name in _TIMES[table]]
    if table == "jobs":
        conditions.append(f"{row}timeout > '0'::interval AND {row}timeout <= '3650 days'::interval")
        conditions.append(
            f"{row}rank > '-infinity'::double precision "
            f"AND {row}rank < 'infinity'::double precision"
        )
    return " AND ".join(conditions)


def _transitions(requeued: str) -> str:
    target_states = {
        "submitted": "'queued', 'scheduled'",
        "due": "'queued'",
        "started": "'running'",
        "progressed": "'running'",
        "output": "'running'",
        "succeeded": "'succeeded'",
        "retry_scheduled": "'retrying'",
        "failed": "'failed'",
        "interrupted": "'queued'",
        "worker_lost": "'queued', 'failed'",
        "cancel_requested": "'running'",
        "cancelled": "'cancelled'",
        "expired": "'failed'",
        "requeued": requeued,
    }
    return " OR ".join(
        f"(type = '{event}' AND state IN ({targets}))" for event, targets in target_states.items()
    )


def _replace_transitions_check(requeued: str) -> None:
    op.execute("ALTER TABLE job_events DROP CONSTRAINT job_events_step_check")
    op.execute(
        "ALTER TABLE job_events ADD CONSTRAINT job_events_step_check "
        f"CHECK ({_transitions(requeued)}) NOT VALID"
    )


def upgrade() -> None:
    _replace_transitions_check("'queued', 'scheduled'")
    for table, columns in _TIMES.items():
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT {table}_times_check "
            f"CHECK ({_readable(table)}) NOT VALID"
        )
        if table not in ("jobs", "job_events"):
            continue
        op.execute(_clamp_function(table, columns))
        op.execute(f"""
            CREATE TRIGGER {table}_clamp BEFORE UPDATE ON {table} FOR EACH ROW
            WHEN (NOT ({_readable(table, "OLD.")}))
            EXECUTE FUNCTION clamp_{table}()
        """)


def downgrade() -> None:
    for table in _TIMES:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_times_check")
        if table in ("jobs", "job_events"):
            op.execute(f"DROP TRIGGER IF EXISTS {table}_clamp ON {table}")
            op.execute(f"DROP FUNCTION IF EXISTS clamp_{table}()")
    # This fails if a job was requeued to SCHEDULED after the upgrade.
    _replace_transitions_check("'queued'")
    op.execute("ALTER TABLE job_events VALIDATE CONSTRAINT job_events_step_check")


def _clamp_function(table: str, columns: tuple[str, ...]) -> str:
    clamps = "\n".join(
        f"    NEW.{name} := CASE WHEN NEW.{name} IS NOT NULL THEN least(greatest(NEW.{name}, "
        "'1970-01-01 00:00:00+00'::timestamptz), "
        "'9999-12-30 23:59:59.999999+00'::timestamptz) END;"
        for name in columns
    )
    if table == "jobs":
        clamps += """
    IF NOT (NEW.timeout > '0'::interval AND NEW.timeout <= '3650 days'::interval) THEN
        NEW.timeout := NULL;
    END IF;
    IF NOT (NEW.rank > '-infinity' AND NEW.rank < 'infinity') THEN
        NEW.rank := extract(epoch FROM NEW.due_time) * 1000 - NEW.priority * 60000;
    END IF;"""
    return f"""
        CREATE FUNCTION clamp_{table}() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
        AS $function$
        BEGIN
        {clamps}
            RETURN NEW;
        END
        $function$
    """
