"""The summary at the end of the demo."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from cases import SENTENCES, Case
from mailbox_server import Mailbox
from rich.console import Console
from rich.table import Table
from run import Run, Times

from headrace_standalone.banner import command_path


def print_summary(
    console: Console,
    run: Run,
    cases: list[Case],
    mailbox: Mailbox,
    *,
    output: Path,
) -> None:
    """Print states, times, output files and a command to try."""
    counts = ", ".join(f"{count} {state.lower()}" for state, count in run.states.items() if count)
    console.print(f"\n[bold]{len(run.times)} jobs[/]: {counts}; {run.transitions} transitions.")
    console.print(_times_table(run))
    for sentence, case in zip(
        SENTENCES, (c for c in cases if c.spec.type == "ai_task"), strict=True
    ):
        if case.job is not None and case.job.result:
            result = case.job.result
            console.print(
                f"  {result['label']:8} ({result['provider']})  {sentence}", soft_wrap=True
            )
    mail = mailbox.mails()[0] if mailbox.mails() else None
    console.print(f"\nMail:     {mailbox.folder}/1.eml, “{mail['Subject'] if mail else '—'}”")
    files = output / "files"
    for name in ("penguins-raw.clean.csv", "penguins-raw.clean.report.json"):
        console.print(f"Cleaned:  {files / name}")
    results = output / "results.json"
    results.write_text(
        json.dumps({case.name: case.job.result for case in cases if case.job is not None}, indent=2)
    )
    console.print(f"Results:  {results}")
    request = json.dumps({"job": {"type": "square_sum", "payload": {"value": {"data": [1, 2]}}}})
    console.print("\nTry it yourself: run `make up`, then in another terminal:")
    console.print(
        f"  {command_path('grpcurl')} -plaintext -d '{request}' 127.0.0.1:50051 "
        "headrace.v1.JobService/SubmitAndWatch\n",
        soft_wrap=True,
    )


def _times_table(run: Run) -> Table:
    table = Table(box=None, padding=(0, 2))
    for heading in ("from submit to …", "p50", "p99", "max"):
        table.add_column(heading, justify="left" if heading.startswith("from") else "right")
    single = [t for job_id, t in run.times.items() if job_id not in run.bulk_ids]
    bulk = [t for job_id, t in run.times.items() if job_id in run.bulk_ids]
    for name, times in (("single jobs", single), ("bulk", bulk)):
        table.add_row(f"first transition, {name}", *_quantiles(_first_delays(times)))
        table.add_row(f"end, {name}", *_quantiles(_end_delays(times)))
    return table


def _first_delays(times: Iterable[Times]) -> list[float]:
    return [t.first - t.submitted for t in times if t.first is not None]


def _end_delays(times: Iterable[Times]) -> list[float]:
    return [t.ended - t.submitted for t in times if t.ended is not None]


def _quantiles(seconds: list[float]) -> list[str]:
    """Return p50, p99 and the maximum, by the nearest rank."""
    ordered = sorted(seconds)
    if not ordered:
        return ["—"] * 3
    ranks = (0.5, 0.99, 1.0)
    return [f"{1000 * ordered[min(len(ordered) - 1, int(r * len(ordered)))]:.1f} ms" for r in ranks]
