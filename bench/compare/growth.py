"""E: the same measurement as D, on databases that already contain many jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Final

from bench.compare.contestant import Contestant
from bench.compare.earlier_jobs import EarlierJobs, fill
from bench.compare.end_to_end import MODE, measure_end_to_end
from bench.compare.measurement import Measurement
from bench.compare.plan import Plan
from bench.compare.stage import Resources, Stage

EMPTY: Final = "an empty database"


def case(plan: Plan, kind: EarlierJobs) -> str:
    """Return the name of a measurement on a filled database."""
    count = plan.finished if kind is EarlierJobs.FINISHED else plan.waiting
    return f"{count:,} {kind.value}"


def queues_case(plan: Plan) -> str:
    """Return the name of the measurement with many queues."""
    return f"{plan.queues} queues"


def delayed_case(plan: Plan) -> str:
    """Return the name of the measurement with delayed jobs."""
    return f"{plan.delayed:,} more jobs due in the same second"


async def measure_growth(
    resources: Resources, contestant: Contestant, plan: Plan, *, announce: Callable[[str], None]
) -> AsyncGenerator[Measurement, None]:
    """Fill the databases, then measure on each of them in every round.

    Args:
        resources: the common resources of all contestants.
        contestant: Headrace.
        plan: the numbers of jobs and rounds.
        announce: receives a line before each step.
    """
    async with AsyncExitStack() as running:
        urls: dict[str, str] = {}
        for kind in EarlierJobs:
            name = case(plan, kind)
            count = plan.finished if kind is EarlierJobs.FINISHED else plan.waiting
            if not count:
                continue
            announce(f"E: inserting jobs: {name}")
            url = await running.enter_async_context(resources.databases.fresh(migrated=True))
            await fill(resources.databases, url, kind, count)
            urls[name] = url
        for number in range(1, plan.rounds + 1):
            cases = _round_measurements(plan, urls)
            # Alternate the order, so that no case always runs first.
            for name, fields in cases if number % 2 else reversed(cases):
                announce(f"E: {name}, round {number}")
                async with Stage.of(
                    resources, contestant, mode=MODE, database_url=urls.get(name, "")
                ) as stage:
                    yield await measure_end_to_end(
                        stage, plan=plan, number=number, figure="E", case=name, **fields
                    )


def _round_measurements(plan: Plan, filled: Iterable[str]) -> list[tuple[str, dict[str, object]]]:
    """Return the measurements of a round: their names and the additional request fields."""
    cases: list[tuple[str, dict[str, object]]] = [(EMPTY, {}), *((name, {}) for name in filled)]
    if plan.queues:
        cases.append((queues_case(plan), {"queues": plan.queues}))
    if plan.delayed:
        cases.append((delayed_case(plan), {"delayed": plan.delayed}))
    return cases
