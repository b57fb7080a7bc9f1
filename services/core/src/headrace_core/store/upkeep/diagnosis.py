"""The state of a database, for operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import text

from headrace_core.store.jobs.waiting import LANES, SERVES_LANE, lane_head_sql
from headrace_core.store.sql.connection import Connection
from headrace_core.store.workers import LIVE_WORKER

# Settings that affect durability or limit long statements.
_SETTINGS = (
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "autovacuum",
    "statement_timeout",
    "data_directory",
    "default_transaction_read_only",
)
_TABLES = ("jobs", "job_events")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseServer:
    """The server.

    Attributes:
        connections: the number of open connections, at most `max_connections`.
        size: the size of the database, in bytes.
        sees_others: whether this role can see the activity of other roles.
        settings: the settings that this role can read, by their PostgreSQL names. Times are in
            milliseconds.
        sessions: the number of Headrace's sessions in this database, by application name:
            `headrace-gateway` or, for wake-ups, `headrace-gateway-listen`.
    """

    version: str
    version_number: int
    standby: bool
    connections: int
    max_connections: int
    size: int
    sees_others: bool
    settings: Mapping[str, str]
    sessions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTransaction:
    """A transaction that has an id, and the time since its start."""

    pid: int | None
    application: str
    user: str
    state: str
    age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHealth:
    """The live and dead rows of a table, and the time of its last vacuum."""

    name: str
    live: int
    dead: int
    vacuum_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """A registered worker. `lease` is the remaining time, negative if the lease has lapsed."""

    name: str
    pool: str
    queues: Sequence[str]
    types: int
    slots: int
    running: int
    draining: bool
    lease: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderState:
    """The newest term. `lease` is the remaining time; None if no scheduler leads."""

    term: int
    lease: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnservedLane:
    """A lane that no live worker serves. `age` is the waiting time of the first job."""

    tenant: str
    queue: str
    type: str
    age: timedelta


async def read_clock(conn: Connection) -> datetime:
    """Return the time of the database's clock."""
    now: datetime = await conn.scalar(_CLOCK)
    return now


async def is_standby(conn: Connection) -> bool:
    """Return whether the server is a standby."""
    return bool(await conn.scalar(_STANDBY))


async def may_submit(conn: Connection) -> bool:
    """Return whether this role may insert jobs."""
    return bool(await conn.scalar(_MAY_SUBMIT))


async def read_server(conn: Connection) -> DatabaseServer:
    """Read the state and the settings of the server."""
    row = (await conn.execute(_SERVER)).one()
    settings = await conn.execute(_SETTING, {"names": list(_SETTINGS)})
    sessions = await conn.execute(_SESSIONS)
    return DatabaseServer(
        version=row.version,
        version_number=row.version_number,
        standby=row.standby,
        connections=row.connections,
        max_connections=row.max_connections,
        size=row.size,
        sees_others=row.sees_others,
        settings={setting.name: setting.setting for setting in settings},
        sessions={row.application_name: row.sessions for row in sessions},
    )


async def oldest_transaction(conn: Connection) -> OpenTransaction | None:
    """Return the oldest open transaction that has an id, including prepared ones.

    Transactions of other roles are included only if `sees_others` is true.
    """
    row = (await conn.execute(_OLDEST_TRANSACTION)).one_or_none()
    if row is None:
        return None
    return OpenTransaction(
        pid=row.pid,
        application=row.application,
        user=row.usename,
        state=row.state,
        age=row.age,
    )


async def settled_lag(conn: Connection) -> timedelta:
    """Return the age of the oldest event that has not settled; zero if all have settled."""
    lag: timedelta = await conn.scalar(_SETTLED_LAG)
    return lag


async def read_tables(conn: Connection) -> Sequence[TableHealth]:
    """Return the health of the large tables, from the server's statistics."""
    return [
        TableHealth(name=row.name, live=row.live, dead=row.dead, vacuum_time=row.vacuum_time)
        for row in await conn.execute(_TABLE, {"names": list(_TABLES)})
    ]


async def read_workers(conn: Connection) -> Sequence[WorkerState]:
    """Return every registered worker, including those whose lease has lapsed."""
    return [
        WorkerState(
            name=row.name,
            pool=row.pool,
            queues=row.queues,
            types=row.types,
            slots=row.slots,
            running=row.running,
            draining=row.draining,
            lease=row.lease,
        )
        for row in await conn.execute(_WORKERS)
    ]


async def read_leader(conn: Connection) -> LeaderState | None:
    """Return the newest term; None before the first term."""
    row = (await conn.execute(_LEADER)).one_or_none()
    return None if row is None else LeaderState(term=row.term, lease=row.lease)


async def unserved_lanes(conn: Connection) -> Sequence[UnservedLane]:
    """Return the lanes that no live worker serves."""
    return [
        UnservedLane(tenant=row.tenant, queue=row.queue, type=row.type, age=row.age)
        for row in await conn.execute(_UNSERVED_LANES)
    ]


_MAY_SUBMIT = text("SELECT has_table_privilege('jobs', 'INSERT')")

_CLOCK = text("SELECT clock_timestamp()")

_STANDBY = text("SELECT pg_is_in_recovery()")

_SERVER = text("""
    SELECT current_setting('server_version') AS version,
        current_setting('server_version_num')::integer AS version_number,
        pg_is_in_recovery() AS standby,
        (SELECT sum(numbackends) FROM pg_stat_database)::integer AS connections,
        current_setting('max_connections')::integer
            - current_setting('superuser_reserved_connections')::integer AS max_connections,
        pg_database_size(current_database()) AS size,
        pg_has_role('pg_read_all_stats', 'USAGE') AS sees_others
""")

_SESSIONS = text("""
    SELECT application_name, count(*)::integer AS sessions FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'headrace-%'
    GROUP BY application_name
""")

_SETTING = text("""
    -- The values at the start of a session: Headrace's sessions set some of them.
    SELECT name, reset_val AS setting FROM pg_settings WHERE name = ANY (CAST(:names AS text[]))
""")

# Other databases are included: the horizon depends on every transaction of the cluster.
_OLDEST_TRANSACTION = text("""
    SELECT pid, application, usename, state, clock_timestamp() - since AS age FROM (
        SELECT pid, coalesce(application_name, '') AS application,
            coalesce(usename::text, '') AS usename,
            coalesce(state, '') || CASE WHEN datname <> current_database()
                THEN ' in the database ' || datname ELSE '' END AS state,
            xact_start AS since
        FROM pg_stat_activity
        WHERE backend_xid IS NOT NULL AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
        UNION ALL
        SELECT NULL, '', owner::text, 'prepared as ' || gid, prepared FROM pg_prepared_xacts
    ) open ORDER BY since LIMIT 1
""")

_SETTLED_LAG = text("""
    SELECT coalesce(clock_timestamp() - min(time), interval '0') FROM job_events
    WHERE isfinite(time) AND xid >= pg_snapshot_xmin(pg_current_snapshot())
""")

_TABLE = text("""
    SELECT relname AS name, n_live_tup AS live, n_dead_tup AS dead,
        greatest(last_vacuum, last_autovacuum) AS vacuum_time
    FROM pg_stat_user_tables
    WHERE relid = ANY (CAST(CAST(:names AS text[]) AS regclass[]))
    ORDER BY relname
""")

_WORKERS = text("""
    SELECT w.name, w.pool, w.queues, w.slots, w.draining,
        w.lease_expire_time - clock_timestamp() AS lease,
        (SELECT count(*) FROM worker_handlers h WHERE h.worker_id = w.id) AS types,
        (SELECT count(*) FROM jobs j WHERE j.worker_id = w.id AND j.state = 'running') AS running
    FROM workers w ORDER BY w.name, w.start_time
""")

_LEADER = text(f"""
    SELECT term, CASE WHEN {LIVE_WORKER} THEN w.lease_expire_time - clock_timestamp() END AS lease
    FROM leadership w
""")

_UNSERVED_LANES = text(f"""
    WITH RECURSIVE {LANES}
    SELECT l.tenant, l.queue, l.type, CASE WHEN isfinite(first.queue_time)
        THEN clock_timestamp() - first.queue_time ELSE interval '0' END AS age
    FROM lane l CROSS JOIN LATERAL (
        SELECT j.queue_time FROM jobs j
            {lane_head_sql("l")} LIMIT 1
    ) first
    WHERE NOT EXISTS (
        SELECT 1 FROM worker_handlers h JOIN workers w ON w.id = h.worker_id
        WHERE {SERVES_LANE}
    )
    ORDER BY age DESC LIMIT 100
""")
