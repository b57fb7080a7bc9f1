"""From what the servers say to what is good, what is not, and what to do."""

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
# The sessions beside its pool in which a process waits for wake-ups.
_SERVICES = ("gateway", "scheduler", "worker")


class Level(StrEnum):
    """How well something is. Only what is bad makes the command fail."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the report: about what, how well it is, in words, and what to do."""

    topic: str
    level: Level
    text: str
    advice: str = ""


def look_at_schema(found: str | None, expected: str, known: Sequence[str]) -> Finding:
    """Whether the database has the schema of this version; `known` are all that it knows."""
    if found == expected:
        return Finding("schema", Level.OK, f"{found}, as this version expects")
    if found is None or found in known:
        has = "there is none" if found is None else f"{found} is older than {expected}"
        advice = "Run: python -m headrace_core migrate"
    else:
        has = f"{found} is unknown to this version, which expects {expected}"
        advice = "Services of a newer version have migrated it: upgrade the others, and this one."
    return Finding("schema", Level.BAD, has, advice)


def look_at_server(server: DatabaseServer, *, pool_size: int) -> Iterator[Finding]:
    """The version, the role, the connections and the settings of PostgreSQL.

    Args:
        server: what it reports.
        pool_size: HEADRACE_DATABASE_POOL_SIZE, taken for that of every service.
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
            "it is a standby, on which nothing can be written",
            "Let HEADRACE_DATABASE_URL name the primary.",
        )
    if server.settings.get("default_transaction_read_only") == "on":
        yield Finding(
            "postgresql",
            Level.BAD,
            "default_transaction_read_only is on, so nothing can be written",
            "Providers set it when the disk is full. Make room, then ALTER DATABASE … "
            "RESET default_transaction_read_only. The services recover by themselves.",
        )
    yield _look_at_connections(server, pool_size)
    yield from _look_at_settings(server)


def _look_at_connections(server: DatabaseServer, pool_size: int) -> Finding:
    share = server.connections / server.max_connections
    level = Level.BAD if share > 0.95 else Level.WARN if share > 0.8 else Level.OK
    text = f"{server.connections} of {server.max_connections} are used"
    services = {
        name: count
        for name in _SERVICES
        if (count := server.sessions.get(f"headrace-{name}-listen", 0))
    }
    if services:
        ours = sum(server.sessions.values())
        # Each process has a pool, and one session that waits for wake-ups.
        most = sum(services.values()) * (pool_size + 1)
        named = ", ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in services.items())
        text += f"; {named} may open {most} with HEADRACE_DATABASE_POOL_SIZE={pool_size}"
        if level is Level.OK and max(0, server.connections - ours) + most > server.max_connections:
            level = Level.WARN
    return Finding(
        "connections",
        level,
        text,
        ""
        if level is Level.OK
        else "Raise max_connections, make HEADRACE_DATABASE_POOL_SIZE smaller, or put PgBouncer in "
        "session mode between.",
    )


def look_at_writes(fault: str | None) -> Finding:
    """Whether a job could be stored; `fault` is why not."""
    if fault is None:
        return Finding("writes", Level.OK, "a job could be stored")
    return Finding(
        "writes",
        Level.BAD,
        f"no job can be stored: {fault}",
        "Look for a lock (pg_locks), a full disk, a read-only database or a missing privilege.",
    )


def _look_at_settings(server: DatabaseServer) -> Iterator[Finding]:
    def value(name: str) -> str:
        return server.settings.get(name, "")

    for name, loss in (
        ("fsync", "a crash of the machine may destroy the database"),
        ("full_page_writes", "a crash of the machine may destroy the database"),
        ("synchronous_commit", "a crash of the server may lose jobs that were acknowledged"),
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
            "off: tables and indexes grow with each transition, and never shrink",
            "Set autovacuum = on.",
        )
    timeout = int(value("statement_timeout") or 0)
    if 0 < timeout < 5000:
        yield Finding(
            "statement_timeout",
            Level.WARN,
            f"{timeout} ms also ends what takes long under load",
            "Leave it at 0 for Headrace's role: HEADRACE_DATABASE_TIMEOUT bounds each call.",
        )


def look_at_clock(difference: timedelta, uncertainty: timedelta) -> Finding:
    """How far the database's clock is ahead of this host's."""
    seconds = difference.total_seconds()
    off = abs(difference) - uncertainty > timedelta(seconds=1)
    if abs(difference) <= uncertainty:
        words = "as this host's"
    else:
        words = f"{abs(seconds):.3f} s {'ahead of' if seconds > 0 else 'behind'} this host's"
    return Finding(
        "clock",
        Level.WARN if off else Level.OK,
        words,
        "Jobs go by the database's clock alone, but times in logs and requests will not fit: "
        "run NTP on both."
        if off
        else "",
    )


def look_at_transactions(
    oldest: OpenTransaction | None, lag: timedelta, *, sees_others: bool
) -> Iterator[Finding]:
    """The settled lag, and who holds it up; `sees_others` is the server's."""
    if oldest is None or oldest.age < timedelta(minutes=1):
        yield Finding(
            "transactions",
            Level.OK if sees_others else Level.WARN,
            "none is open for more than a minute"
            + (
                ""
                if sees_others
                else ", but for those of other roles, which this role is not shown"
            ),
            "" if sees_others else "GRANT pg_read_all_stats TO the role of HEADRACE_DATABASE_URL.",
        )
    else:
        whose = f"{oldest.application or 'somebody'} as {oldest.user}, {oldest.state}"
        who = f"process {oldest.pid}, {whose}" if oldest.pid else whose
        ending = (
            f"SELECT pg_terminate_backend({oldest.pid})"
            if oldest.pid
            else "ROLLBACK PREPARED, or COMMIT PREPARED,"
        )
        yield Finding(
            "transactions",
            Level.BAD if oldest.age > timedelta(hours=1) else Level.WARN,
            f"one has been open for {_span(oldest.age)}: {who}",
            f"Streams of many jobs wait for it, and nothing is vacuumed. {ending} ends it.",
        )
    yield Finding(
        "settled lag",
        Level.WARN if lag > timedelta(seconds=10) else Level.OK,
        f"{lag.total_seconds():.1f} s",
        "Streams of many jobs are late by so much." if lag > timedelta(seconds=10) else "",
    )


def look_at_tables(tables: Iterable[TableHealth]) -> Iterator[Finding]:
    """Dead rows."""
    for table in tables:
        many = table.dead > 50_000 and table.dead > table.live / 2
        vacuumed = f"{table.vacuum_time:%Y-%m-%d %H:%M}" if table.vacuum_time else "never"
        yield Finding(
            f"table {table.name}",
            Level.WARN if many else Level.OK,
            f"{table.live:,} rows, {table.dead:,} dead, vacuumed {vacuumed}",
            f"Autovacuum does not keep up: ALTER TABLE {table.name} SET "
            "(autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0), and look "
            "for transactions that stay open."
            if many
            else "",
        )


def look_at_leader(leader: LeaderState | None) -> Finding:
    """Whether somebody leads."""
    if leader is not None and leader.lease is not None:
        return Finding("scheduler", Level.OK, f"one leads, in term {leader.term}")
    return Finding(
        "scheduler",
        Level.BAD,
        "nobody leads: nothing is delivered, taken back or pruned",
        "Start python -m headrace_scheduler, two of them so that one stands by.",
    )


def look_at_workers(workers: Sequence[WorkerState]) -> Iterator[Finding]:
    """Each live worker, and how much it runs."""
    live = [worker for worker in workers if worker.lease > timedelta()]
    if not live:
        yield Finding(
            "workers",
            Level.BAD,
            "there is none",
            "Start python -m headrace_worker.",
        )
    for worker in live:
        queues = f"queues {', '.join(worker.queues)}" if worker.queues else "all queues"
        yield Finding(
            f"worker {worker.name}",
            Level.OK if worker.types else Level.WARN,
            f"{worker.running} of {worker.slots} slots, {worker.types} types, {queues}, "
            f"lease for {worker.lease.total_seconds():.0f} s"
            + (", drains" if worker.draining else ""),
            "" if worker.types else "It has no handlers: HEADRACE_HANDLERS names their modules.",
        )
    if live and all(worker.running >= worker.slots for worker in live if not worker.draining):
        yield Finding(
            "load",
            Level.WARN,
            "no worker has a free slot",
            "Start more workers, or raise HEADRACE_WORKER_SLOTS when handlers mostly wait.",
        )
    if lapsed := len(workers) - len(live):
        yield Finding("lapsed workers", Level.OK, f"{lapsed}, which are forgotten after an hour")


def look_at_lanes(lanes: Iterable[UnservedLane]) -> Iterator[Finding]:
    """Queues that wait for a worker."""
    for lane in lanes:
        yield Finding(
            f"queue {lane.queue}",
            Level.WARN,
            f"jobs of type {lane.type} (tenant {lane.tenant}) have waited for a worker for "
            f"{_span(lane.age)}",
            "No live worker has this handler and takes this queue: see headrace handlers.",
        )


def look_at_redis(server: RedisServer) -> Iterator[Finding]:
    """The version of Redis, and what it does when its memory is full."""
    numbers = tuple(int(part) for part in server.version.split(".")[:2])
    good = numbers >= _MIN_REDIS
    yield Finding(
        "redis",
        Level.OK if good else Level.BAD,
        f"{server.name} {server.release}, {server.memory / 2**20:.0f} MiB, "
        f"{server.connections} connections",
        "" if good else "Headrace needs Redis 7.0 or newer, or Valkey.",
    )
    if server.refusal:
        yield Finding(
            "redis",
            Level.BAD,
            f"it takes no writes: {server.refusal}",
            "Nothing is lost: workers take jobs from PostgreSQL meanwhile.",
        )
    if server.max_memory:
        evicts = server.policy != "noeviction"
        full = server.memory > 0.9 * server.max_memory
        yield Finding(
            "redis memory",
            Level.WARN if evicts or full else Level.OK,
            f"{server.memory / server.max_memory:.0%} of its limit, {server.policy}",
            "Deliveries that it throws away come again after 10 s only: set "
            "maxmemory-policy noeviction, and give it a server of its own."
            if evicts
            else "Give it more memory."
            if full
            else "",
        )


def no_redis(where: str) -> Finding:
    """Redis cannot be reached at this host and port."""
    return Finding(
        "redis",
        Level.BAD,
        f"it cannot be reached at {where}, or does not let us in",
        "Nothing is lost: workers take jobs from PostgreSQL meanwhile. Start it, or mend "
        "HEADRACE_REDIS_URL.",
    )


def look_at_disk(folder: str) -> Finding | None:
    """The disk under a folder of this machine; None when it cannot be seen."""
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
        "" if level is Level.OK else "Shorten HEADRACE_RETENTION, or give PostgreSQL more room.",
    )


def _span(span: timedelta) -> str:
    seconds = span.total_seconds()
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
