"""The checks of `headrace doctor`, which rate the state of the servers and give advice."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from headrace_core.delivery.redis_server import RedisServer
from headrace_core.store.upkeep.diagnosis import (
    DatabaseServer,
    LeaderState,
    OpenTransaction,
    TableHealth,
    UnservedLane,
    WorkerState,
)

_GIB = 2**30
_MIN_POSTGRES = 140_000
_MIN_REDIS = (7, 0)
# The services to count. Each process has exactly one session that waits for wake-ups.
_SERVICES = ("gateway", "scheduler", "worker")


class Level(StrEnum):
    """The severity of a finding. BAD makes the command fail."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of the report, with advice if its level is not OK."""

    topic: str
    level: Level
    text: str
    advice: str = ""


def check_schema(found: str | None, expected: str, known: Sequence[str]) -> Finding:
    """Check the schema version.

    Args:
        found: the revision of the database; None if the schema is missing.
        expected: the revision of this version.
        known: all revisions that this version knows.
    """
    if found == expected:
        return Finding("schema", Level.OK, f"{found}, as this version expects")
    if found is None or found in known:
        text = "missing" if found is None else f"{found} is older than {expected}"
        advice = "Run: python -m headrace_core migrate"
    else:
        text = f"{found} is unknown to this version, which expects {expected}"
        advice = "A newer version has migrated the database: upgrade all services and this command."
    return Finding("schema", Level.BAD, text, advice)


def check_server(server: DatabaseServer, *, pool_size: int) -> Iterator[Finding]:
    """Check the version, the role, the connections and the settings of PostgreSQL.

    Args:
        server: the state of PostgreSQL.
        pool_size: HEADRACE_DATABASE_POOL_SIZE of this command, assumed for every service.
    """
    good = server.version_number >= _MIN_POSTGRES
    yield Finding(
        "postgresql",
        Level.OK if good else Level.BAD,
        f"{server.version}, {server.size / _GIB:.1f} GiB",
        "" if good else "Headrace needs PostgreSQL 14 or newer.",
    )
    if server.standby:
        yield Finding(
            "postgresql",
            Level.BAD,
            "the server is a standby, which rejects writes",
            "Set HEADRACE_DATABASE_URL to the primary.",
        )
    if server.settings.get("default_transaction_read_only") == "on":
        yield Finding(
            "postgresql",
            Level.BAD,
            "default_transaction_read_only is on, so writes are rejected",
            "Hosting providers set it when the disk is full. Free space, then run ALTER DATABASE … "
            "RESET default_transaction_read_only. The services then recover.",
        )
    yield _check_connections(server, pool_size)
    yield from _check_settings(server)


def _check_connections(server: DatabaseServer, pool_size: int) -> Finding:
    share = server.connections / server.max_connections
    level = Level.BAD if share > 0.95 else Level.WARN if share > 0.8 else Level.OK
    text = f"{server.connections} of {server.max_connections} are in use"
    services = {
        name: count
        for name in _SERVICES
        if (count := server.sessions.get(f"headrace-{name}-listen", 0))
    }
    if services:
        own_sessions = sum(server.sessions.values())
        # Each process has a pool, and one session that waits for wake-ups.
        maximum = sum(services.values()) * (pool_size + 1)
        named = ", ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in services.items())
        text += f"; {named} may open {maximum} with HEADRACE_DATABASE_POOL_SIZE={pool_size}"
        if (
            level is Level.OK
            and max(0, server.connections - own_sessions) + maximum > server.max_connections
        ):
            level = Level.WARN
    return Finding(
        "connections",
        level,
        text,
        ""
        if level is Level.OK
        else "Raise max_connections, lower HEADRACE_DATABASE_POOL_SIZE, or use PgBouncer in "
        "session mode.",
    )


def check_writes(fault: str | None) -> Finding:
    """Check that jobs can be stored; `fault` is the reason if they cannot."""
    if fault is None:
        return Finding("writes", Level.OK, "jobs can be stored")
    return Finding(
        "writes",
        Level.BAD,
        f"jobs cannot be stored: {fault}",
        "Check for a lock (pg_locks), a full disk, a read-only database or a missing privilege.",
    )


def writes_unchecked() -> Finding:
    """Report that the role may only read, so the write check was skipped."""
    return Finding(
        "writes",
        Level.OK,
        "not checked, because this role may not store jobs; the health of each gateway checks them",
    )


def _check_settings(server: DatabaseServer) -> Iterator[Finding]:
    def value(name: str) -> str:
        return server.settings.get(name, "")

    for name, loss in (
        ("fsync", "a crash of the machine can destroy the database"),
        ("full_page_writes", "a crash of the machine can destroy the database"),
        ("synchronous_commit", "a crash of the server can lose acknowledged jobs"),
    ):
        off = value(name) == "off"
        yield Finding(
            name,
            Level.BAD if off else Level.OK,
            f"{value(name)}{f': {loss}' if off else ''}",
            f"Set {name} = on." if off else "",
        )
    if value("autovacuum") == "off":
        yield Finding(
            "autovacuum",
            Level.BAD,
            "off: tables and indexes grow with each transition and are never vacuumed",
            "Set autovacuum = on.",
        )
    timeout = int(value("statement_timeout") or 0)
    if 0 < timeout < 5000:
        yield Finding(
            "statement_timeout",
            Level.WARN,
            f"{timeout} ms is too short for statements under load",
            "Set it to 0 for Headrace's role: HEADRACE_DATABASE_TIMEOUT limits each statement.",
        )


def check_clock(difference: timedelta, uncertainty: timedelta) -> Finding:
    """Check the difference between the database clock and the clock of this host."""
    seconds = difference.total_seconds()
    off = abs(difference) - uncertainty > timedelta(seconds=1)
    if abs(difference) <= uncertainty:
        text = "same time as this host"
    else:
        text = f"{abs(seconds):.3f} s {'ahead of' if seconds > 0 else 'behind'} this host"
    return Finding(
        "clock",
        Level.WARN if off else Level.OK,
        text,
        "Jobs use the database's clock only, but times in logs and requests differ from it: "
        "run NTP on both hosts."
        if off
        else "",
    )


def check_transactions(
    oldest: OpenTransaction | None, lag: timedelta, *, sees_others: bool
) -> Iterator[Finding]:
    """Check the oldest transaction and the settled lag that it causes.

    Args:
        oldest: the oldest transaction that this role can see.
        lag: the age of the oldest event that has not settled.
        sees_others: whether this role can see the transactions of other roles.
    """
    if oldest is None or oldest.age < timedelta(minutes=1):
        yield Finding(
            "transactions",
            Level.OK if sees_others else Level.WARN,
            "none has been open for more than a minute"
            + ("" if sees_others else ", but this role cannot see transactions of other roles"),
            "" if sees_others else "GRANT pg_read_all_stats TO the role of HEADRACE_DATABASE_URL.",
        )
    else:
        session = f"{oldest.application or 'unnamed'} as {oldest.user}, {oldest.state}"
        owner = f"process {oldest.pid}, {session}" if oldest.pid else session
        ending = (
            f"SELECT pg_terminate_backend({oldest.pid})"
            if oldest.pid
            else "ROLLBACK PREPARED, or COMMIT PREPARED,"
        )
        yield Finding(
            "transactions",
            Level.BAD if oldest.age > timedelta(hours=1) else Level.WARN,
            f"one has been open for {_format_duration(oldest.age)}: {owner}",
            f"Streams of many jobs wait for it, and dead rows are kept. {ending} ends it.",
        )
    yield Finding(
        "settled lag",
        Level.WARN if lag > timedelta(seconds=10) else Level.OK,
        f"{lag.total_seconds():.1f} s",
        "Streams of many jobs are delayed by this time." if lag > timedelta(seconds=10) else "",
    )


def check_tables(tables: Iterable[TableHealth]) -> Iterator[Finding]:
    """Check the dead rows of tables."""
    for table in tables:
        many = table.dead > 50_000 and table.dead > table.live / 2
        vacuumed = f"{table.vacuum_time:%Y-%m-%d %H:%M}" if table.vacuum_time else "never"
        yield Finding(
            f"table {table.name}",
            Level.WARN if many else Level.OK,
            f"{table.live:,} rows, {table.dead:,} dead, vacuumed {vacuumed}",
            f"Autovacuum is not keeping up: run ALTER TABLE {table.name} SET "
            "(autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0), and check "
            "for long transactions."
            if many
            else "",
        )


def check_leader(leader: LeaderState | None) -> Finding:
    """Check that a scheduler leads."""
    if leader is not None and leader.lease is not None:
        return Finding("scheduler", Level.OK, f"a scheduler leads, in term {leader.term}")
    return Finding(
        "scheduler",
        Level.BAD,
        "no scheduler leads: jobs are not dispatched, recovered or pruned",
        "Start python -m headrace_scheduler. Start a second one to have a standby.",
    )


def check_workers(workers: Sequence[WorkerState]) -> Iterator[Finding]:
    """Check the workers and their load."""
    live = [worker for worker in workers if worker.lease > timedelta()]
    if not live:
        yield Finding(
            "workers",
            Level.BAD,
            "no live worker",
            "Start python -m headrace_worker.",
        )
    for worker in live:
        queues = f"queues {', '.join(worker.queues)}" if worker.queues else "all queues"
        yield Finding(
            f"worker {worker.name}",
            Level.OK if worker.types else Level.WARN,
            f"{worker.running} of {worker.slots} slots, {worker.types} types, {queues}, "
            f"lease {worker.lease.total_seconds():.0f} s"
            + (", draining" if worker.draining else ""),
            ""
            if worker.types
            else "The worker has no handlers: set HEADRACE_HANDLERS to their modules.",
        )
    if live and all(worker.running >= worker.slots for worker in live if not worker.draining):
        yield Finding(
            "load",
            Level.WARN,
            "no worker has a free slot",
            "Start more workers, or raise HEADRACE_WORKER_SLOTS if handlers mostly wait.",
        )
    if lapsed := len(workers) - len(live):
        yield Finding("lapsed workers", Level.OK, f"{lapsed}, removed after an hour")


def check_lanes(lanes: Iterable[UnservedLane]) -> Iterator[Finding]:
    """Report queues that no worker serves."""
    for lane in lanes:
        yield Finding(
            f"queue {lane.queue}",
            Level.WARN,
            f"jobs of type {lane.type} (tenant {lane.tenant}) have waited for a worker for "
            f"{_format_duration(lane.age)}",
            "No live worker with this handler serves this queue: run headrace handlers.",
        )


def check_redis(server: RedisServer) -> Iterator[Finding]:
    """Check the version, the writes and the memory of Redis."""
    numbers = tuple(int(part) for part in server.version.split(".")[:2])
    good = numbers >= _MIN_REDIS
    yield Finding(
        "redis",
        Level.OK if good else Level.BAD,
        f"{server.name} {server.release}, {server.memory / 2**20:.0f} MiB, "
        f"{server.connections} connections",
        "" if good else "Headrace needs Redis 7.0 or newer, or Valkey.",
    )
    if server.write_error:
        yield Finding(
            "redis",
            Level.BAD,
            f"Redis rejects writes: {server.write_error}",
            "No job is lost: workers claim jobs from PostgreSQL.",
        )
    if server.max_memory:
        evicts = server.policy != "noeviction"
        full = server.memory > 0.9 * server.max_memory
        yield Finding(
            "redis memory",
            Level.WARN if evicts or full else Level.OK,
            f"{server.memory / server.max_memory:.0%} of its limit, {server.policy}",
            "A job whose delivery is evicted waits 10 s for the next one. Set maxmemory-policy "
            "noeviction, and use a separate Redis server."
            if evicts
            else "Raise maxmemory."
            if full
            else "",
        )


def redis_unreachable(where: str) -> Finding:
    """Return the finding that Redis cannot be reached at an address."""
    return Finding(
        "redis",
        Level.BAD,
        f"Redis cannot be reached at {where}, or rejected the login",
        "No job is lost: workers claim jobs from PostgreSQL. Start Redis, or correct "
        "HEADRACE_REDIS_URL.",
    )


def check_disk(folder: str) -> Finding | None:
    """Check the free space of a folder's disk; None if the folder is not on this machine."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    level = Level.OK
    if usage.free < 2 * _GIB or usage.free < 0.05 * usage.total:
        level = Level.BAD if usage.free < _GIB / 2 else Level.WARN
    return Finding(
        "disk",
        level,
        f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB are free",
        ""
        if level is Level.OK
        else "Shorten HEADRACE_RETENTION, or enlarge the disk of PostgreSQL.",
    )


def _format_duration(span: timedelta) -> str:
    seconds = span.total_seconds()
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
