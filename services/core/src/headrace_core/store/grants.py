"""The privileges of each service's database role, and the SQL script that grants them.

Every table has an entry in `PRIVILEGES`; a test compares it with `tables.py`. A service that needs
another privilege fails with "permission denied" in tests/integration/test_grants.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import asyncpg

from headrace_core.runtime.settings import Settings
from headrace_core.store.access.audit import AUDIT_COLUMNS
from headrace_core.store.migrate import LOCK
from headrace_core.store.schema import VERSION_TABLE
from headrace_core.store.sql.database import server_arguments
from headrace_core.store.sql.tables import job_events, jobs, metadata


class Client(StrEnum):
    """A program with its own database role.

    Attributes:
        HANDLER: the transactions of handlers, which end their own attempts.
        OPS: `headrace verify` and `headrace doctor`.
    """

    GATEWAY = "gateway"
    SCHEDULER = "scheduler"
    WORKER = "worker"
    OPS = "ops"
    HANDLER = "handler"


class Privilege(NamedTuple):
    """A privilege on a table, or on some of its columns.

    Attributes:
        verb: SELECT, INSERT, UPDATE or DELETE.
        columns: the columns; empty for the whole table.
    """

    verb: str
    columns: tuple[str, ...] = ()


_SELECT: Final = Privilege("SELECT")
_INSERT: Final = Privilege("INSERT")
_UPDATE: Final = Privilege("UPDATE")
_DELETE: Final = Privilege("DELETE")


def _select(*columns: str) -> Privilege:
    return Privilege("SELECT", columns)


def _select_except(table: str, *columns: str) -> Privilege:
    names = [column.name for column in metadata.tables[table].columns]
    return Privilege("SELECT", tuple(name for name in names if name not in columns))


def _update(*columns: str) -> Privilege:
    return Privilege("UPDATE", columns)


# The columns that transitions of each service set (store/jobs/).
_ANY_TRANSITION: Final = ("state", "seq", "xid", "update_time")
_REQUEUE: Final = (
    *("retries_used", "worker_losses", "interruptions", "progress", "error", "stack_trace"),
    *("end_time", "cancel_request_time", "deadline", "rank", "due_time", "queue_time"),
)
_RECOVER: Final = (*("worker_losses", "error", "stack_trace", "queue_time", "end_time", "rank"),)
_CANCEL: Final = ("cancel_request_time",)
_ATTEMPT: Final = (
    *("attempt", "worker_id", "start_time", "progress", "result", "error", "stack_trace"),
    *("retries_used", "worker_losses", "interruptions", "due_time", "queue_time", "end_time"),
)
# The contents of jobs, which a scheduler never reads.
_JOB_CONTENTS: Final = ("payload", "result", "progress", "stack_trace")
_EVENT_CONTENTS: Final = ("progress", "output")

# The privileges of each client on each table. A client without an entry has none.
PRIVILEGES: Final[Mapping[str, Mapping[Client, Sequence[Privilege]]]] = {
    "installation": {
        # The secret signs cursors, page tokens and API keys.
        Client.GATEWAY: (_SELECT,),
        Client.SCHEDULER: (_select("id"),),
        Client.WORKER: (_select("id"),),
        Client.OPS: (_select("id", "singleton"),),
    },
    "batches": {
        Client.GATEWAY: (_SELECT, _INSERT),
        Client.SCHEDULER: (_SELECT, _DELETE),
        Client.OPS: (_SELECT,),
    },
    jobs.name: {
        Client.GATEWAY: (_SELECT, _INSERT, _update(*_ANY_TRANSITION, *_REQUEUE)),
        Client.SCHEDULER: (
            _select_except(jobs.name, *_JOB_CONTENTS),
            _update(*_ANY_TRANSITION, *_RECOVER, *_CANCEL),
            _DELETE,
        ),
        Client.WORKER: (_SELECT, _update(*_ANY_TRANSITION, *_ATTEMPT)),
        Client.OPS: (_SELECT,),
    },
    job_events.name: {
        Client.GATEWAY: (_SELECT, _INSERT),
        Client.SCHEDULER: (
            _select_except(job_events.name, *_EVENT_CONTENTS),
            _INSERT,
            _DELETE,
        ),
        Client.WORKER: (_SELECT, _INSERT),
        Client.OPS: (_SELECT,),
    },
    "job_logs": {
        Client.GATEWAY: (_SELECT,),
        Client.SCHEDULER: (_select("job_id"), _DELETE),
        # The worker inserts ON CONFLICT DO NOTHING, which reads nothing.
        Client.WORKER: (_INSERT,),
        Client.OPS: (_select("job_id", "attempt", "last_line", "tenant"),),
    },
    "workers": {
        Client.GATEWAY: (_SELECT,),
        Client.SCHEDULER: (_SELECT, _DELETE),
        Client.WORKER: (
            _SELECT,
            _INSERT,
            _update("heartbeat_time", "draining", "lease_expire_time"),
            _DELETE,
        ),
        Client.OPS: (_SELECT,),
    },
    "worker_handlers": {
        Client.GATEWAY: (_SELECT,),
        Client.SCHEDULER: (_SELECT,),
        Client.WORKER: (_SELECT, _INSERT),
        Client.OPS: (_SELECT,),
    },
    "leadership": {
        Client.SCHEDULER: (_SELECT, _INSERT, _UPDATE),
        Client.OPS: (_SELECT,),
    },
    "event_log": {
        Client.GATEWAY: (_SELECT,),
        Client.SCHEDULER: (_SELECT, _INSERT, _update("start_xid", "start_position"), _DELETE),
        Client.OPS: (_SELECT,),
    },
    "pruned_jobs": {
        Client.SCHEDULER: (_SELECT, _INSERT, _update("removed"), _DELETE),
        Client.OPS: (_SELECT,),
    },
    "subscriptions": {
        Client.GATEWAY: (
            _SELECT,
            _INSERT,
            _update(
                *("xid", "position", "ack_time"),
                *("consumer", "watch_id", "epoch", "lease_expire_time"),
            ),
            _DELETE,
        ),
        # The scheduler deletes the rows of deleted tenants.
        Client.SCHEDULER: (_SELECT, _DELETE),
        Client.OPS: (_SELECT,),
    },
    "tenants": {
        Client.GATEWAY: (
            _SELECT,
            _INSERT,
            _update("state", "delete_time", "quotas", "ceilings", "audit_payload_reads"),
        ),
        Client.SCHEDULER: (_SELECT, _update("deletion_jobs", "removed_jobs"), _DELETE),
        Client.WORKER: (_select("name", "state"),),
        Client.OPS: (_SELECT,),
    },
    "tenant_usage": {
        Client.GATEWAY: (
            _SELECT,
            _INSERT,
            _update("waiting_jobs", "waiting_count_time", "payload_bytes", "day", "day_jobs"),
            _DELETE,
        ),
        Client.SCHEDULER: (_SELECT, _update("payload_bytes", "recount_time"), _DELETE),
        Client.OPS: (_SELECT,),
    },
    "job_minutes": {
        Client.GATEWAY: (_SELECT,),
        Client.SCHEDULER: (_SELECT, _INSERT, _UPDATE, _DELETE),
        Client.OPS: (_SELECT,),
    },
    "history_place": {
        Client.SCHEDULER: (_SELECT, _INSERT, _update("xid", "position")),
        Client.OPS: (_SELECT,),
    },
    "api_keys": {
        Client.GATEWAY: (_SELECT, _INSERT, _update("revoke_time", "last_use_time")),
        Client.OPS: (_select_except("api_keys", "secret_hash"),),
        Client.SCHEDULER: (_select("id", "tenant"), _DELETE),
    },
    "signing_keys": {
        # Rotation is a command of the owner.
        Client.GATEWAY: (_SELECT, _INSERT),
        Client.OPS: (_select_except("signing_keys", "seed"),),
    },
    "users": {
        Client.GATEWAY: (
            _SELECT,
            _INSERT,
            _update("role", "scope", "disabled"),
            _update("password_hash", "password_time", "last_login_time"),
            _DELETE,
        ),
        Client.SCHEDULER: (_select("tenant", "name"), _DELETE),
        Client.OPS: (_select_except("users", "password_hash"),),
    },
    "sessions": {
        Client.GATEWAY: (
            _SELECT,
            _INSERT,
            _update("token_hash", "previous_hash", "replace_time", "end_time"),
            _DELETE,
        ),
        Client.SCHEDULER: (_select("tenant", "id"), _DELETE),
        Client.OPS: (_select_except("sessions", "token_hash", "previous_hash"),),
    },
    "certificate_bindings": {
        Client.GATEWAY: (_SELECT, _INSERT, _DELETE),
        Client.SCHEDULER: (_select("tenant", "san"), _DELETE),
        Client.OPS: (_SELECT,),
    },
    "access_version": {
        Client.GATEWAY: (_SELECT, _update("version")),
        Client.OPS: (_SELECT,),
    },
    "access_changes": {
        Client.GATEWAY: (_SELECT, _INSERT, _DELETE),
        Client.OPS: (_SELECT,),
    },
    # The triggers of the audit log write as the owner of the tables.
    "audit_log": {
        Client.GATEWAY: (_SELECT, Privilege("INSERT", AUDIT_COLUMNS)),
        Client.OPS: (_SELECT,),
    },
    "audit_chains": {
        Client.SCHEDULER: (_SELECT,),
        Client.OPS: (_SELECT,),
    },
    VERSION_TABLE: {
        Client.OPS: (_SELECT,),
    },
}

# The functions that a client may call. All other functions are triggers, which need no privilege.
FUNCTIONS: Final[Mapping[str, Sequence[Client]]] = {
    "check_fence(uuid, integer)": (Client.HANDLER,),
    "complete(uuid, integer, json)": (Client.HANDLER,),
    "prune_audit(text, timestamptz, integer)": (Client.SCHEDULER,),
    # Sizes of payloads, for the usage of tenants.
    "payload_bytes_of_jobs(uuid[])": (Client.SCHEDULER,),
    "payload_bytes_of_tenant(text)": (Client.SCHEDULER,),
}

# Maximum time for a connection to close, in seconds.
_CLOSE_S: Final = 10.0

# Role names that need no escape inside quotes, and are not PostgreSQL's own.
_ROLE: Final = re.compile(r"(?!pg_)[A-Za-z_][A-Za-z0-9_.@-]{0,62}")

# The names of one client's roles, by client.
Roles = Mapping[Client, Sequence[str]]


def check_role(name: str) -> str:
    """Return the name of a role.

    Raises:
        ValueError: the name is not valid.
    """
    if not _ROLE.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a valid role name; use a letter or an underscore, then up to 62 "
            "letters, digits and _.@-; names with pg_ belong to PostgreSQL"
        )
    return name


def grant_script(roles: Roles, *, schema: str) -> str:
    """Return the SQL script that gives roles exactly the privileges of their clients.

    The script creates missing roles, without a password. Running it again has no effect. A role
    that is named for several clients receives the privileges of all of them.

    Args:
        roles: the roles; see `check_role`.
        schema: the schema of the tables, a name that needs no quotes.
    """
    names = list(dict.fromkeys(name for group in roles.values() for name in group))
    quoted = ", ".join(f'"{name}"' for name in names)
    statements = [
        "BEGIN",
        str(LOCK),
        *(_create_role(name, schema) for name in names),
        *(
            f"REVOKE ALL ON ALL {kind} IN SCHEMA {schema} FROM {quoted}"
            for kind in ("TABLES", "SEQUENCES", "FUNCTIONS")
        ),
        f"REVOKE ALL ON SCHEMA {schema} FROM {quoted}",
        # PostgreSQL lets every role with access to the schema call new functions.
        f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC",
        f"GRANT USAGE ON SCHEMA {schema} TO {quoted}",
        *(
            f'{grant} TO "{name}"'
            for client, group in roles.items()
            for name in group
            for grant in _grants(client, schema)
        ),
        *(_see_other_sessions(name) for name in roles.get(Client.OPS, ())),
        "COMMIT",
    ]
    return "".join(f"{statement};\n" for statement in statements)


async def apply_grants(settings: Settings, roles: Roles) -> list[str]:
    """Run `grant_script` and return the server's warnings.

    Raises:
        asyncpg.PostgresError: the server rejected the script, and nothing has changed.
    """
    warnings: list[str] = []

    def note(_: object, message: asyncpg.PostgresLogMessage) -> None:
        if isinstance(message, asyncpg.PostgresWarning):
            warnings.append(message.message)

    connection = await asyncpg.connect(**server_arguments(settings))
    try:
        connection.add_log_listener(note)
        await connection.execute(grant_script(roles, schema=settings.database_schema))
    finally:
        await connection.close(timeout=_CLOSE_S)
    return warnings


def _grants(client: Client, schema: str) -> Iterator[str]:
    for table, clients in PRIVILEGES.items():
        verbs = ", ".join(
            f"{privilege.verb} ({', '.join(privilege.columns)})"
            if privilege.columns
            else privilege.verb
            for privilege in clients.get(client, ())
        )
        if verbs:
            yield f"GRANT {verbs} ON {schema}.{table}"
    for function, callers in FUNCTIONS.items():
        if client in callers:
            yield f"GRANT EXECUTE ON FUNCTION {schema}.{function}"
    if client is Client.OPS:
        # `headrace verify` compares positions with the sequence.
        yield f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema}"


def _create_role(name: str, schema: str) -> str:
    # An owner, a member of the owner's role and a superuser keep all privileges.
    return f"""DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN
        CREATE ROLE "{name}" LOGIN;
    ELSIF EXISTS (
        SELECT FROM pg_class c
        WHERE c.relnamespace = to_regnamespace('{schema}')
            AND pg_has_role('{name}', c.relowner, 'MEMBER')
    ) THEN
        RAISE EXCEPTION 'the role "{name}" is a superuser, or has the privileges of the owner of '
            'the tables; choose another role';
    END IF;
END
$$"""


def _see_other_sessions(name: str) -> str:
    return f"""DO $$
BEGIN
    IF NOT pg_has_role('{name}', 'pg_read_all_stats', 'USAGE') THEN
        GRANT pg_read_all_stats TO "{name}";
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'the role "{name}" cannot see other transactions: '
        'a superuser can GRANT pg_read_all_stats TO "{name}"';
END
$$"""
