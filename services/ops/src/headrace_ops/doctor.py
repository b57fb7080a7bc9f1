"""`headrace doctor`, once its command line has been read."""

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
from headrace_ops.exits import Exit, ask
from headrace_ops.findings import Finding, Level
from headrace_ops.place import describe, describe_redis

_STATEMENT_S: Final = 30.0
# As long as the services' own checks of health may take.
_WRITE_S: Final = 2.0
_STYLES: Final = {Level.OK: "green", Level.WARN: "yellow", Level.BAD: "bold red"}
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1", None)


def run(*, data: Path | None, output: Output, json: bool) -> int:
    """Examines, and prints what was found; the arguments are those of the command.

    Returns:
        The exit code.
    """
    found = ask(
        lambda settings: asyncio.run(_examine(settings)), data=data, output=output, json=json
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


async def _examine(settings: Settings) -> list[Finding]:
    words = f"{version('headrace-core')}, on the database at {describe(settings)}"
    found = [Finding("headrace", Level.OK, words)]
    database = Database(settings, application="doctor", writes=False)
    try:
        async with database.snapshot(statement_timeout=_STATEMENT_S) as connection:
            found += await _examine_database(connection, settings)
        if any(one.topic == "schema" and one.level is Level.OK for one in found):
            found.append(findings.look_at_writes(await write_fault(database, within=_WRITE_S)))
    finally:
        await database.close()
    try:
        found += findings.look_at_redis(await read_redis(settings))
    except Unavailable:
        found.append(findings.no_redis(describe_redis(settings)))
    return found


async def _examine_database(connection: Connection, settings: Settings) -> list[Finding]:
    server = await diagnosis.read_server(connection)
    found = [*findings.look_at_server(server, pool_size=settings.database_pool_size)]
    began = datetime.now(UTC)
    clock = await diagnosis.read_clock(connection)
    took = datetime.now(UTC) - began
    found.append(findings.look_at_clock(clock - (began + took / 2), took))
    folder = server.settings.get("data_directory")
    if folder and urlsplit(settings.postgresql_url).hostname in _LOOPBACK:
        disk = findings.look_at_disk(folder)
        found += [disk] if disk is not None else []
    schema = findings.look_at_schema(
        await read_revision(connection), head_revision(), known_revisions()
    )
    found.append(schema)
    if schema.level is not Level.OK:
        # What there is to see has another form.
        return found
    found += findings.look_at_transactions(
        await diagnosis.oldest_transaction(connection),
        await diagnosis.settled_lag(connection),
        sees_others=server.sees_others,
    )
    found += findings.look_at_tables(await diagnosis.read_tables(connection))
    found.append(findings.look_at_leader(await diagnosis.read_leader(connection)))
    found += findings.look_at_workers(await diagnosis.read_workers(connection))
    found += findings.look_at_lanes(await diagnosis.unserved_lanes(connection))
    return found
