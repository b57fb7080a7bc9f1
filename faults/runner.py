"""Runs a trial, and keeps its logs and evidence if it fails."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from faults.circumstances import circumstances
from faults.cluster import Cluster, running
from faults.evidence import Evidence
from faults.invariants import Verdict, judge
from faults.measure import Figure
from faults.result import Counts, Result
from faults.scenario import Scenario
from faults.trial import Trial
from faults.verify import verify

# The folder for the logs and evidence of failed trials, or of all trials with --keep.
OUTPUT = Path("faults-output")
# Longest error shown, in characters; an error may contain a whole log.
_MAX_FAILURE_LENGTH = 2000


async def run_trial(
    scenario: Scenario,
    *,
    seed: int,
    short: bool,
    keep: bool,
    log: Callable[[str], None],
    output: Path = OUTPUT,
) -> Result:
    """Run a scenario once, on its own processes.

    Args:
        scenario: the scenario.
        seed: the seed of all random choices.
        short: shorten the long waits.
        keep: keep the logs and evidence of a good trial too.
        log: writes a line of progress.
        output: the folder for logs and evidence.
    """
    started, context = time.monotonic(), circumstances()
    if missing := scenario.unsupported():
        return Result(
            scenario=scenario.id,
            title=scenario.title,
            seed=seed,
            short=short,
            circumstances=context,
            not_run=missing,
        )
    evidence, figures, failure = Evidence(), list[Figure](), ""
    audit: Verdict | None = None
    log(f"{scenario.title}; seed {seed}")
    async with AsyncExitStack() as open_:
        cluster: Cluster | None = None
        try:
            cluster = await open_.enter_async_context(running(scenario.plan))
            trial = Trial(cluster=cluster, seed=seed, short=short, log=log)
            figures = trial.figures
            open_.push_async_callback(trial.close)
            async with asyncio.timeout(scenario.timeout):
                await scenario.run(trial)
                await trial.finish()
                evidence = await trial.evidence()
                audit = await verify(cluster.postgres.url)
        except Exception as error:  # any error fails the trial
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # The scenario may have turned Ctrl-C into a different error.
                raise asyncio.CancelledError from error
            failure = f"{type(error).__name__}: {error}"[:_MAX_FAILURE_LENGTH]
            log(traceback.format_exc(limit=-3)[:_MAX_FAILURE_LENGTH])
        result = Result(
            scenario=scenario.id,
            title=scenario.title,
            seed=seed,
            short=short,
            seconds=time.monotonic() - started,
            verdicts={} if failure else judge(evidence, scenario.shows),
            figures=figures,
            recoveries=evidence.recoveries,
            counts=Counts.of(evidence),
            audit=audit,
            circumstances=context,
            failure=failure,
        )
        if cluster is not None and (keep or not result.good):
            folder = output / f"{scenario.id}-seed-{seed}"
            _keep(folder, cluster.logs, evidence)
            log(f"logs and evidence: {folder}")
    return result


def _keep(folder: Path, logs: Path, evidence: Evidence) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(logs, folder)
    for name in ("submissions", "events", "ledger", "streams", "usages", "recoveries"):
        _write(folder / f"{name}.jsonl", getattr(evidence, name))
    _write(folder / "jobs.jsonl", evidence.jobs.values())


def _write(file: Path, items: Iterable[Any]) -> None:
    with file.open("w") as stream:
        for item in items:
            stream.write(json.dumps(dataclasses.asdict(item), default=_as_text) + "\n")


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
