"""The command `headrace verify`, after its command line is parsed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from headrace.cli.output import Output, json_text
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_ops.audit import Audit, Auditor
from headrace_ops.exits import Exit, check_servers
from headrace_ops.servers import describe_database

# The rule that each check tests.
RULES: Final[Mapping[str, str]] = {
    "missing": "every job has its events",
    "orphan": "every event has its job",
    "gap": "events are numbered 1, 2, 3 … without a gap",
    "step": "every event is a transition of the lifecycle from the previous state",
    "attempt": "the attempt number increases with each start and never otherwise",
    "end": "a job has one terminal event for each submit or requeue",
    "row": "the row of a job matches its newest event",
    "place": "the events of a job are in the log in the order of their numbers",
    "tenant": "a job and its events have the same tenant",
    "early": "no job is queued before its due time",
    "size": "no progress is larger than streams can send",
    "key": "an idempotency key belongs to one job",
    "batch": "every batch has jobs, and the batch of every job exists",
    "leftover": "pruned jobs have only the expected leftover events",
    "handler": "every handler has a worker",
    "log": "no place is beyond the events of this cluster",
    "installation": "the database has exactly one installation id",
    "audit": "the audit log of each tenant is one unbroken chain",
    "unreadable": "every row can be read",
    "lease": "a RUNNING job has a worker with a lease",
    "due": "due jobs are queued",
    "deadline": "jobs past their deadline have ended",
    "delivery": "QUEUED jobs are delivered while workers have free slots",
}
# Advice for breaches that have a remedy. All other breaches are damage.
_ADVICE: Final[Mapping[str, str]] = {
    "log": "If the database was restored, run: python -m headrace_core migrate --restored",
    "size": "An older version stored this progress. Lists and streams omit its counters.",
    "unreadable": "To repair these rows, run: python -m headrace_core mend",
    "lease": "Run headrace doctor to check the scheduler.",
    "due": "Run headrace doctor to check the scheduler.",
    "deadline": "Run headrace doctor to check the scheduler.",
    "delivery": "Run headrace doctor to check the scheduler and Redis.",
}
# Seconds between two lines of progress if stderr is not a terminal.
_PROGRESS_S: Final = 5.0


def run(
    *,
    data: Path | None,
    output: Output,
    json: bool,
    at_rest: bool,
    patience: float,
    limit: int,
) -> int:
    """Audit the database and print the result. The arguments match the options of the command.

    Returns:
        The exit code.
    """

    def audit(settings: Settings) -> tuple[Audit, str]:
        audited = _audit(settings, patience=None if at_rest else patience, limit=limit)
        return asyncio.run(audited), describe_database(settings)

    result = check_servers(audit, data=data, output=output, json=json)
    if result is None:
        return Exit.UNKNOWN
    found, where = result
    if json:
        output.line(json_text(to_document(found, where)))
    else:
        output.console.print(text(found, where))
    return Exit.BROKEN if found.counts else Exit.CLEAN


async def _audit(settings: Settings, *, patience: float | None, limit: int) -> Audit:
    database = Database(settings, application="verify", bounded=False, writes=False)
    try:
        return await Auditor(database, limit=limit, progress=_Progress()).run(patience=patience)
    finally:
        await database.close()


def to_document(found: Audit, where: str) -> dict[str, Any]:
    """Return the result as a JSON object."""
    return {
        "verdict": "breach" if found.counts else "clean",
        "database": where,
        "jobs": found.jobs,
        "events": found.events,
        "seconds": round(found.seconds, 3),
        "counts": dict(found.counts),
        "breaches": [
            {"check": one.check, "subject": one.subject, "text": one.text} for one in found.breaches
        ],
    }


def text(found: Audit, where: str) -> Text:
    """Return the result as text."""
    scope = f"{found.jobs:,} jobs with {found.events:,} events at {where} in {found.seconds:.1f} s"
    if not found.counts:
        return Text.assemble(("clean", "bold green"), f": {scope}, no breaches")
    total = found.counts.total()
    breaches = "1 breach" if total == 1 else f"{total:,} breaches"
    lines = [Text.assemble(("broken", "bold red"), f": {scope}, {breaches}")]
    for check, rule in RULES.items():
        if not (count := found.counts[check]):
            continue
        lines.append(Text.assemble("\n", (f"{check}: {rule}", "bold")))
        reported = [breach for breach in found.breaches if breach.check == check]
        lines += [Text(f"  {breach.subject}: {breach.text}") for breach in reported]
        if count > len(reported):
            lines.append(Text(f"  and {count - len(reported):,} more"))
        if check in _ADVICE:
            lines.append(Text(f"  {_ADVICE[check]}", style="italic"))
    return Text("\n").join(lines)


class _Progress:
    """Reports the progress of the audit on stderr."""

    def __init__(self) -> None:
        self._reported = time.monotonic()

    def __call__(self, jobs: int, estimate: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if jobs >= estimate else ""
            sys.stderr.write(f"\r{jobs:,} of about {estimate:,} jobs {end}")
            sys.stderr.flush()
        elif time.monotonic() - self._reported >= _PROGRESS_S:
            self._reported = time.monotonic()
            sys.stderr.write(f"{jobs:,} of about {estimate:,} jobs\n")
