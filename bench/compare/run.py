"""The run of all measurements."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import asyncpg

from bench.compare import accept, drain, end_to_end, growth, latency, memory
from bench.compare.contestant import Contestant, read_contestants
from bench.compare.databases import Databases
from bench.compare.environment import EnvironmentFailedError, environment, is_current, version
from bench.compare.janitor import Janitor
from bench.compare.measurement import Failure, Measurement
from bench.compare.plan import Plan
from bench.compare.process import PeerFailedError
from bench.compare.report import Report
from bench.compare.stage import Resources, Stage
from bench.machine import read_machine
from bench.stack import Stack
from headrace_standalone.supervised import ProgramFailedError

# Errors that end the measurement of one contestant but not the run.
_FAILURES: Final = (
    PeerFailedError,
    ProgramFailedError,
    TimeoutError,
    OSError,
    LookupError,
    asyncpg.PostgresError,
)

Announce: TypeAlias = Callable[[str], None]
# Measures a contestant on a stage, which is the only positional argument.
Measure: TypeAlias = Callable[..., Awaitable[Any]]


async def run(
    plan: Plan,
    *,
    announce: Announce,
    database_url: str | None = None,
    redis_url: str | None = None,
) -> Report:
    """Run all measurements of the plan.

    Args:
        plan: the settings of the comparison.
        announce: receives a line before each step.
        database_url: an existing PostgreSQL server, on which databases are created; None starts a
            server.
        redis_url: an existing Valkey or Redis server, whose data is deleted; None starts a server.

    Raises:
        ValueError: the plan contains an unknown contestant.
    """
    contestants = _chosen_contestants(plan)
    failures: list[Failure] = []
    pythons = await _create_environments(contestants, failures, announce)
    contestants = [one for one in contestants if one.name in pythons]
    announce("starting PostgreSQL and Valkey")
    async with Stack.running(database_url=database_url, redis_url=redis_url) as stack:
        report = Report(
            plan=plan,
            machine=await read_machine(stack.settings),
            contestants=contestants,
            versions={
                one.name: await version(pythons[one.name], one.package) for one in contestants
            },
            failures=failures,
        )
        with Janitor.running() as janitor:
            resources = Resources(
                stack=stack,
                databases=Databases(stack),
                janitor=janitor,
                pythons=pythons,
                gateways=plan.gateways,
            )
            comparison = _Comparison(resources, plan, report, announce)
            for figure in plan.figures:
                await comparison.measure(figure)
    return report


class _Comparison:
    """Measures every figure, and adds the results to the report."""

    def __init__(
        self, resources: Resources, plan: Plan, report: Report, announce: Announce
    ) -> None:
        self._resources = resources
        self._plan = plan
        self._report = report
        self._announce = announce

    async def measure(self, figure: str) -> None:
        """Measure one figure; the contestants take turns in each round."""
        await {
            "A": self._measure_drain,
            "B": self._measure_accept,
            "C": self._measure_latency,
            "D": self._measure_end_to_end,
            "E": self._measure_growth,
            "F": self._measure_memory,
        }[figure]()

    async def _measure_drain(self) -> None:
        plan = self._plan
        for index, jobs in enumerate(plan.drain):
            for number in range(1, (1 if index else plan.rounds) + 1):
                for workers in plan.workers:
                    for one in self._remaining("A"):
                        if not (index and one.slow):
                            case = drain.case(jobs, workers)
                            await self._measure_or_record_failure(
                                *("A", one, f"{case}, round {number}", drain.MODE),
                                partial(
                                    drain.measure_drain,
                                    plan=plan,
                                    jobs=jobs,
                                    workers=workers,
                                    number=number,
                                ),
                            )

    async def _measure_accept(self) -> None:
        await self._measure_in_rounds("B", accept.MODE, accept.measure_accept)

    async def _measure_latency(self) -> None:
        await self._measure_in_rounds("C", latency.MODE, latency.measure_latency)

    async def _measure_end_to_end(self) -> None:
        measure = end_to_end.measure_end_to_end
        for number in range(1, self._plan.rounds + 1):
            for one in self._remaining("D"):
                label = f"round {number}"
                measured = partial(measure, plan=self._plan, number=number)
                await self._measure_or_record_failure("D", one, label, end_to_end.MODE, measured)
                if one.is_headrace:
                    measured = partial(measured, case=end_to_end.ALL, watch="all")
                    await self._measure_or_record_failure(
                        "D", one, f"{label}, all", end_to_end.MODE, measured
                    )

    async def _measure_growth(self) -> None:
        for one in self._remaining("E"):
            with self._recording_failures("E", one):
                async with aclosing(
                    growth.measure_growth(self._resources, one, self._plan, announce=self._announce)
                ) as measured:
                    async for measurement in measured:
                        self._report.measurements.append(measurement)

    async def _measure_memory(self) -> None:
        measure = partial(memory.measure_memory, plan=self._plan)
        for one in self._remaining("F"):
            await self._measure_or_record_failure(
                "F", one, memory.case(self._plan), memory.MODE, measure
            )

    async def _measure_in_rounds(self, figure: str, mode: str, measure: Measure) -> None:
        for number in range(1, self._plan.rounds + 1):
            for one in self._remaining(figure):
                measured = partial(measure, plan=self._plan, number=number)
                await self._measure_or_record_failure(
                    figure, one, f"round {number}", mode, measured
                )

    def _remaining(self, figure: str) -> list[Contestant]:
        """Return the contestants of a figure that have not failed in it."""
        failed = {
            failure.contestant for failure in self._report.failures if failure.figure == figure
        }
        return [
            one
            for one in self._report.contestants
            if figure in one.figures and one.name not in failed
        ]

    async def _measure_or_record_failure(
        self, figure: str, contestant: Contestant, label: str, mode: str, measure: Measure
    ) -> None:
        self._announce(f"{figure}: {contestant.title}, {label}")
        with self._recording_failures(figure, contestant):
            async with Stage.of(self._resources, contestant, mode=mode) as stage:
                measured = await measure(stage)
            self._report.measurements += (
                [measured] if isinstance(measured, Measurement) else measured
            )

    @contextmanager
    def _recording_failures(self, figure: str, contestant: Contestant) -> Iterator[None]:
        """Record a failure that occurs in the block, and continue."""
        try:
            yield
        except _FAILURES as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, ProgramFailedError):
                reason = f"{reason}\n{error.tail}"
            self._announce(f"{figure}: {contestant.title} failed: {reason}")
            self._report.failures.append(
                Failure(figure=figure, contestant=contestant.name, reason=reason)
            )


def _chosen_contestants(plan: Plan) -> list[Contestant]:
    contestants = read_contestants()
    names = {one.name for one in contestants}
    if unknown := [name for name in plan.contestants if name not in names]:
        raise ValueError(
            f"unknown contestant: {', '.join(unknown)}; use one of {', '.join(sorted(names))}"
        )
    wanted = set(plan.contestants) or names
    return [
        one for one in contestants if one.name in wanted and set(one.figures) & set(plan.figures)
    ]


async def _create_environments(
    contestants: Sequence[Contestant], failures: list[Failure], announce: Announce
) -> dict[str, Path]:
    """Return each contestant's interpreter; if there is none, record a failure in each figure."""
    pythons = {}
    for one in contestants:
        if one.is_headrace:
            pythons[one.name] = Path(sys.executable)
            continue
        try:
            if not is_current(one.name, one.requirements, one.python):
                announce(f"creating the environment of {one.title}")
            pythons[one.name] = await environment(one.name, one.requirements, one.python)
        except EnvironmentFailedError as error:
            announce(f"skipping {one.title}: {error}")
            failures += (
                Failure(figure=figure, contestant=one.name, reason=str(error))
                for figure in one.figures
            )
    return pythons
