"""`python -m headrace_core`: maintains the database, its roles, signing keys and first admin."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable

import asyncpg
import pydantic
import sqlalchemy.exc
import structlog

from headrace_core.domain.access import Role
from headrace_core.domain.audit import COMMAND_LINE, INSTALLATION_CHAIN, AuditEntry
from headrace_core.domain.errors import Unavailable
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.runtime import logs
from headrace_core.runtime.command_line import SERVERS, service_parser
from headrace_core.runtime.process import BAD_CONFIGURATION
from headrace_core.runtime.settings import Settings, StartRefused, problems
from headrace_core.store.access.audit import record_audit
from headrace_core.store.access.bootstrap import (
    BootstrapRejected,
    bootstrap_key,
    bootstrap_user,
)
from headrace_core.store.access.signing_keys import rotate_signing_key
from headrace_core.store.grants import Client, Roles, apply_grants, check_role, grant_script
from headrace_core.store.migrate import mend, migrate
from headrace_core.store.schema import MigrationRejected
from headrace_core.store.sql.database import Database, server_error

_EXAMPLES = (
    "python -m headrace_core migrate",
    "HEADRACE_DATABASE_URL=postgresql://me@127.0.0.1/jobs python -m headrace_core migrate",
    "python -m headrace_core grants --gateway headrace_gateway --worker headrace_worker",
    "python -m headrace_core bootstrap --key ci",
)

# sysexits.h: EX_TEMPFAIL.
BUSY = 75
# Deadlock detected, too many connections, and server not ready.
_BUSY_CODES = ("40P01", "53300", "57P03")
_WAIT_S = 60.0
_RETRY_S = 2.0


_CLIENTS = {
    Client.GATEWAY: "role of the gateways",
    Client.SCHEDULER: "role of the schedulers, which cannot read payloads and results",
    Client.WORKER: "role of the workers",
    Client.OPS: "role of `headrace verify` and `headrace doctor`, which can only read",
    Client.HANDLER: "role of handlers' own transactions, which can only call check_fence and "
    "complete",
}


def main() -> int:
    """Run the command given on the command line and return its exit code."""
    parser = service_parser(
        "headrace_core",
        description="Maintain Headrace's database.",
        settings={name: SERVERS[name] for name in ("database_url", "log_format", "log_level")},
        examples=_EXAMPLES,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    migrate_parser = commands.add_parser(
        "migrate",
        help="bring the database to the schema of this version",
        description="Bring the database to the schema of this version.",
    )
    migrate_parser.add_argument(
        "--restored",
        action="store_true",
        help="the database was restored from a backup: reject cursors issued before the restore",
    )
    migrate_parser.add_argument(
        "--wait",
        type=float,
        default=_WAIT_S,
        metavar="SECONDS",
        help="retry for this long while the server starts or has no free connection (default: 60), "
        f"then exit with code {BUSY}",
    )
    commands.add_parser(
        "mend",
        help="repair the unreadable rows that `headrace verify` lists",
        description="Replace unreadable times with the nearest valid time, and stored documents "
        "that cannot be decoded with empty ones. Job states do not change.",
    )
    rotate_parser = commands.add_parser(
        "rotate-signing-key",
        help="create a new key for the tokens of this installation",
        description="Create a new key, with which gateways sign the tokens of users and watch "
        "tokens within a minute. Tokens signed with an earlier key stay valid until they expire.",
    )
    rotate_parser.add_argument(
        "--revoke",
        action="store_true",
        help="remove the earlier keys now: within five seconds, tokens signed with them are "
        "rejected and their streams end. Users stay logged in",
    )
    _add_grants(commands)
    _add_bootstrap(commands)
    arguments = parser.parse_args()
    roles = {client: getattr(arguments, client, None) or () for client in Client}
    if arguments.command == "grants" and not any(roles.values()):
        parser.error("grants needs at least one role, such as --gateway headrace_gateway")
    try:
        settings = Settings()
    except pydantic.ValidationError as error:
        for problem in problems(error):
            _report(arguments.command, problem)
        return BAD_CONFIGURATION
    logs.configure(settings, service="migrate")

    def run() -> None:
        if arguments.command == "grants":
            _grant(settings, roles, applies=arguments.apply)
        elif arguments.command == "mend":
            repaired_rows = mend(settings)
            structlog.get_logger().info(
                "database_mended", times=repaired_rows.times, documents=repaired_rows.documents
            )
        elif arguments.command == "rotate-signing-key":
            key = asyncio.run(_rotate_signing_key(settings, revoke=arguments.revoke))
            structlog.get_logger().info("signing_key_rotated", key=key, revoked=arguments.revoke)
        elif arguments.command == "bootstrap":
            asyncio.run(_bootstrap(settings, arguments))
        else:
            migrate(settings, restored=arguments.restored)
            structlog.get_logger().info("database_migrated")

    deadline = time.monotonic() + getattr(arguments, "wait", 0.0)
    while (code := _run_once(run, settings, command=arguments.command)) == BUSY:
        if time.monotonic() + _RETRY_S > deadline:
            break
        time.sleep(_RETRY_S)
    return code


async def _bootstrap(settings: Settings, arguments: argparse.Namespace) -> None:
    database = Database(settings, application="migrate")
    try:
        async with database.transaction() as conn:
            if arguments.key is None:
                secret = await bootstrap_user(
                    conn,
                    tenant=arguments.tenant,
                    name=arguments.user,
                    role=Role(arguments.role),
                    force=arguments.force,
                )
            else:
                secret = await bootstrap_key(
                    conn,
                    tenant=arguments.tenant,
                    principal=arguments.key,
                    role=Role(arguments.role),
                    force=arguments.force,
                )
    finally:
        await database.close()
    sys.stdout.write(f"{secret}\n")


async def _rotate_signing_key(settings: Settings, *, revoke: bool) -> str:
    database = Database(settings, application="migrate")
    try:
        async with database.transaction() as conn:
            key = await rotate_signing_key(conn, revoke=revoke)
            target = f"signing key {key}{', earlier keys revoked' if revoke else ''}"
            entry = AuditEntry(
                tenant=INSTALLATION_CHAIN,
                principal=COMMAND_LINE,
                method="rotate-signing-key",
                target=target,
            )
            await record_audit(conn, entry)
            return key
    finally:
        await database.close()


def _add_bootstrap(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bootstrap",
        help="create the first admin of a tenant, and print the password or the API key",
        description="Create the first admin of a tenant, and print the random password or the API "
        "key to stdout. It cannot be read again.",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--user", metavar="NAME", default="admin", help="create this user (default: admin)"
    )
    kind.add_argument("--key", metavar="NAME", help="create an API key of this principal instead")
    parser.add_argument(
        "--tenant", default=DEFAULT_TENANT, help="the tenant (default: %(default)s)"
    )
    parser.add_argument(
        "--role",
        choices=[str(Role.ADMIN), str(Role.PLATFORM)],
        default=str(Role.PLATFORM),
        help="admin of the tenant, or of the platform with all its tenants (default: platform)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="continue if the tenant has an admin; an existing user gets a new password",
    )


def _add_grants(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "grants",
        help="give each service's database role exactly the privileges that it needs",
        description="Print the SQL script that creates missing roles and gives each role exactly "
        "the privileges of its service. Repeat an option to name several roles.",
        allow_abbrev=False,
    )
    for client in Client:
        parser.add_argument(
            f"--{client}",
            action="append",
            type=_role,
            metavar="ROLE",
            help=_CLIENTS[client],
        )
    parser.add_argument(
        "--apply",
        action="store_true",
        help="run the script on the database instead of printing it",
    )


def _role(name: str) -> str:
    try:
        return check_role(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}") from error


def _grant(settings: Settings, roles: Roles, *, applies: bool) -> None:
    if not applies:
        sys.stdout.write(grant_script(roles, schema=settings.database_schema))
        return
    log = structlog.get_logger()
    for warning in asyncio.run(apply_grants(settings, roles)):
        log.warning("grant_incomplete", reason=warning)
    log.info(
        "privileges_granted", roles=sorted({name for group in roles.values() for name in group})
    )


def _run_once(run: Callable[[], None], settings: Settings, *, command: str) -> int:
    try:
        run()
    except (MigrationRejected, BootstrapRejected, StartRefused) as error:
        _report(command, f"{error}")
        return 1
    except (
        OSError,
        TimeoutError,
        Unavailable,
        asyncpg.PostgresError,
        sqlalchemy.exc.DBAPIError,
    ) as error:
        database_error = server_error(error)
        busy = database_error is not None and database_error.sqlstate in _BUSY_CODES
        _report(command, _reason(error, settings, command=command))
        return BUSY if busy else 1
    return 0


def _report(command: str, reason: str) -> None:
    sys.stderr.write(f"headrace {command}: {reason}\n")


def _reason(error: BaseException, settings: Settings, *, command: str) -> str:
    database_error = server_error(error)
    if database_error is None:
        # A driver's message can contain the URL and its password.
        return (
            "the database of HEADRACE_DATABASE_URL cannot be reached "
            f"({type(error).__name__}). Is it running, and are the host and port correct?"
        )
    if isinstance(database_error, asyncpg.InsufficientPrivilegeError) and command == "grants":
        return (
            f"{database_error.message}. The role of HEADRACE_DATABASE_URL must own the tables, and "
            "needs CREATEROLE if a role is missing"
        )
    if isinstance(database_error, asyncpg.InsufficientPrivilegeError):
        return (
            f"{database_error.message}. The role needs CREATE on the database, or it must own the "
            f'schema "{settings.database_schema}" (HEADRACE_DATABASE_SCHEMA): '
            f"CREATE SCHEMA {settings.database_schema} AUTHORIZATION the_role"
        )
    return f"the database of HEADRACE_DATABASE_URL rejected the command: {database_error.message}"


if __name__ == "__main__":
    sys.exit(main())
