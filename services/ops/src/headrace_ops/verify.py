"""`headrace verify`, once its command line has been read."""

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
from headrace_ops.exits import Exit, ask
from headrace_ops.place import describe

# What each check holds.
RULES: Final[Mapping[str, str]] = {
    "missing": "every job has its events",
    "orphan": "every event has its job",
    "gap": "events are numbered 1, 2, 3 … without a gap",
    "step": "every event is a step of the lifecycle from the state before",
    "attempt": "attempts count up with each start, and only then",
    "end": "each life of a job has one terminal event",
    "row": "a job's row says what its newest event says",
    "place": "a job's events stand in the log in the order of their numbers",
    "tenant": "a job and its events are of one tenant",
    "early": "nothing starts before its time",
    "size": "no progress is larger than a stream carries",
    "key": "one idempotency key, one job",
    "batch": "batches and their jobs belong together",
    "leftover": "what is left of pruned jobs is what should be",
    "handler": "every handler has its worker",
    "log": "no place in the log is beyond what was written",
    "installation": "the database has one name",
    "unreadable": "every row can be read",
    "lease": "a RUNNING job has a worker with a lease",
    "due": "a job that is due is queued",
    "deadline": "a job past its deadline has ended",
    "delivery": "a QUEUED job goes to a free worker",
}
# With these something may be done; the others are damage.
_ADVICE: Final[Mapping[str, str]] = {
    "log": "The database comes from another cluster: python -m headrace_core migrate --restored",
    "size": "An older version stored it. Lists and streams show it cut; it goes with its job.",
    "unreadable": "To repair such rows: python -m headrace_core mend",
    "lease": "Does a scheduler lead? headrace doctor tells.",
    "due": "Does a scheduler lead? headrace doctor tells.",
    "deadline": "Does a scheduler lead? headrace doctor tells.",
    "delivery": "Does a scheduler lead, and is Redis there? headrace doctor tells.",
}
# How often progress is told where no terminal can be redrawn, in seconds.
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
    """Audits, and prints what was found; the arguments are those of the command.

    Returns:
        The exit code.
    """

    def audit(settings: Settings) -> tuple[Audit, str]:
        audited = _audit(settings, patience=None if at_rest else patience, limit=limit)
        return asyncio.run(audited), describe(settings)

    answer = ask(audit, data=data, output=output, json=json)
    if answer is None:
        return Exit.UNKNOWN
    found, where = answer
    if json:
        output.line(json_text(document(found, where)))
    else:
        output.console.print(text(found, where))
    return Exit.BROKEN if found.counts else Exit.CLEAN


async def _audit(settings: Settings, *, patience: float | None, limit: int) -> Audit:
    database = Database(settings, application="verify", bounded=False, writes=False)
    try:
        return await Auditor(database, limit=limit, progress=_Progress()).run(patience=patience)
    finally:
        await database.close()


def document(found: Audit, where: str) -> dict[str, Any]:
    """The result, for JSON."""
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
    """The result, for people."""
    looked_at = (
        f"{found.jobs:,} jobs with {found.events:,} events at {where} in {found.seconds:.1f} s"
    )
    if not found.counts:
        return Text.assemble(("clean", "bold green"), f": {looked_at}, and nothing is broken")
    total = found.counts.total()
    breaches = "1 breach" if total == 1 else f"{total:,} breaches"
    lines = [Text.assemble(("broken", "bold red"), f": {looked_at}, {breaches}")]
    for check, rule in RULES.items():
        if not (count := found.counts[check]):
            continue
        lines.append(Text.assemble("\n", (f"{check}: {rule}", "bold")))
        told = [breach for breach in found.breaches if breach.check == check]
        lines += [Text(f"  {breach.subject}: {breach.text}") for breach in told]
        if count > len(told):
            lines.append(Text(f"  and {count - len(told):,} more"))
        if check in _ADVICE:
            lines.append(Text(f"  {_ADVICE[check]}", style="italic"))
    return Text("\n").join(lines)


class _Progress:
    """Tells on stderr how far it is."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, jobs: int, about: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if jobs >= about else ""
            sys.stderr.write(f"\r{jobs:,} of about {about:,} jobs {end}")
            sys.stderr.flush()
        elif time.monotonic() - self._said >= _PROGRESS_S:
            self._said = time.monotonic()
            sys.stderr.write(f"{jobs:,} of about {about:,} jobs\n")
