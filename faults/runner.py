"""Runs trials, and keeps what is needed to understand one that failed."""

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

# What is kept of a trial that failed, or of each one when asked to.
OUTPUT = Path("faults-output")
# How much of an error is shown, in characters: it may have a whole log in it.
_FAILURE = 2000


async def run_trial(
    scenario: Scenario,
    *,
    seed: int,
    short: bool,
    keep: bool,
    say: Callable[[str], None],
    output: Path = OUTPUT,
) -> Result:
    """Runs a scenario once, on processes of its own.

    Args:
        scenario: what to do.
        seed: decides what is left to chance.
        short: whether long waits may be shorter.
        keep: keep logs and evidence also when everything is good.
        say: is told what happens.
        output: where they are kept.
    """
    began, where = time.monotonic(), circumstances()
    if missing := scenario.cannot():
        return Result(
            scenario=scenario.id,
            title=scenario.title,
            seed=seed,
            short=short,
            circumstances=where,
            not_run=missing,
        )
    evidence, figures, failure = Evidence(), list[Figure](), ""
    audit: Verdict | None = None
    say(f"{scenario.title}; seed {seed}")
    async with AsyncExitStack() as open_:
        cluster: Cluster | None = None
        try:
            cluster = await open_.enter_async_context(running(scenario.plan))
            trial = Trial(cluster=cluster, seed=seed, short=short, say=say)
            figures = trial.figures
            open_.push_async_callback(trial.close)
            async with asyncio.timeout(scenario.timeout):
                await scenario.run(trial)
                await trial.settle()
                evidence = await trial.evidence()
                audit = await verify(cluster.postgres.url)
        except Exception as error:  # whatever it is, the trial has failed
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # It is what somebody made of a Ctrl-C.
                raise asyncio.CancelledError from error
            failure = f"{type(error).__name__}: {error}"[:_FAILURE]
            say(traceback.format_exc(limit=-3)[:_FAILURE])
        result = Result(
            scenario=scenario.id,
            title=scenario.title,
            seed=seed,
            short=short,
            seconds=time.monotonic() - began,
            verdicts={} if failure else judge(evidence, scenario.shows),
            figures=figures,
            recoveries=evidence.recoveries,
            counts=Counts.of(evidence),
            audit=audit,
            circumstances=where,
            failure=failure,
        )
        if cluster is not None and (keep or not result.good):
            folder = output / f"{scenario.id}-seed-{seed}"
            _keep(folder, cluster.logs, evidence)
            say(f"logs and evidence: {folder}")
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
