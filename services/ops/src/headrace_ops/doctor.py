"""The command `headrace doctor`, after its command line is parsed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from rich.text import Text

from headrace.cli.output import Output, json_text
from headrace_core.delivery.redis_server import read_redis
from headrace_core.domain.errors import Unavailable
from headrace_core.runtime.settings import Settings
from headrace_core.store.migrate import head_revision, known_revisions, read_revision
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.probe import write_fault
from headrace_core.store.upkeep import diagnosis
from headrace_ops import findings
from headrace_ops.exits import Exit, check_servers
from headrace_ops.findings import Finding, Level
from headrace_ops.servers import describe_database, describe_redis

_STATEMENT_S: Final = 30.0
# Time limit of the write check, equal to the limit of the services' health checks.
_WRITE_S: Final = 2.0
_STYLES: Final = {Level.OK: "green", Level.WARN: "yellow", Level.BAD: "bold red"}
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1", None)


def run(*, data: Path | None, output: Output, json: bool) -> int:
    """Check the servers and print the findings. The arguments match the options of the command.

    Returns:
        The exit code.
    """
    found = check_servers(
        lambda settings: asyncio.run(_check(settings)), data=data, output=output, json=json
    )
    if found is None:
        return Exit.UNKNOWN
    if json:
        output.line(
            json_text(
                {
                    "verdict": max(found, key=_severity).level,
                    "findings": [
                        {
                            "topic": one.topic,
                            "level": one.level,
                            "text": one.text,
                            "advice": one.advice,
                        }
                        for one in found
                    ],
                }
            )
        )
    else:
        for one in found:
            output.console.print(_line(one))
    return Exit.BROKEN if any(one.level is Level.BAD for one in found) else Exit.CLEAN


def _severity(finding: Finding) -> int:
    return list(Level).index(finding.level)


def _line(finding: Finding) -> Text:
    line = Text.assemble(
        (f"{finding.level:4} ", _STYLES[finding.level]),
        (f"{finding.topic}: ", "bold"),
        finding.text,
    )
    return line.append(f"\n     → {finding.advice}", "italic") if finding.advice else line


async def _check(settings: Settings) -> list[Finding]:
    summary = f"{version('headrace-core')}, on the database at {describe_database(settings)}"
    found = [Finding("headrace", Level.OK, summary)]
    database = Database(settings, application="doctor", writes=False)
    try:
        async with database.snapshot(statement_timeout=_STATEMENT_S) as connection:
            found += await _check_database(connection, settings)
        if any(one.topic == "schema" and one.level is Level.OK for one in found):
            found.append(await _check_writes(database))
    finally:
        await database.close()
    try:
        found += findings.check_redis(await read_redis(settings))
    except Unavailable:
        found.append(findings.redis_unreachable(describe_redis(settings)))
    return found


async def _check_writes(database: Database) -> Finding:
    async with database.statement() as connection:
        if not await diagnosis.may_submit(connection):
            return findings.writes_unchecked()
    return findings.check_writes(await write_fault(database, within=_WRITE_S))


async def _check_database(connection: Connection, settings: Settings) -> list[Finding]:
    server = await diagnosis.read_server(connection)
    found = [*findings.check_server(server, pool_size=settings.database_pool_size)]
    start = datetime.now(UTC)
    clock = await diagnosis.read_clock(connection)
    round_trip = datetime.now(UTC) - start
    found.append(findings.check_clock(clock - (start + round_trip / 2), round_trip))
    folder = server.settings.get("data_directory")
    if folder and urlsplit(settings.postgresql_url).hostname in _LOOPBACK:
        disk = findings.check_disk(folder)
        found += [disk] if disk is not None else []
    schema = findings.check_schema(
        await read_revision(connection), head_revision(), known_revisions()
    )
    found.append(schema)
    if schema.level is not Level.OK:
        # The remaining checks need the tables of this version.
        return found
    found += findings.check_transactions(
        await diagnosis.oldest_transaction(connection),
        await diagnosis.settled_lag(connection),
        sees_others=server.sees_others,
    )
    found += findings.check_tables(await diagnosis.read_tables(connection))
    found.append(findings.check_leader(await diagnosis.read_leader(connection)))
    found += findings.check_workers(await diagnosis.read_workers(connection))
    found += findings.check_lanes(await diagnosis.unserved_lanes(connection))
    return found
