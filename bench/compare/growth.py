"""E: end to end once more, where there is a lot already."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Final

from bench.compare.contestant import Contestant
from bench.compare.end_to_end import MODE, measure_end_to_end
from bench.compare.measurement import Measurement
from bench.compare.past import Past, fill
from bench.compare.plan import Plan
from bench.compare.stage import Ground, Stage

EMPTY: Final = "an empty database"


def case(plan: Plan, past: Past) -> str:
    """The name of a measurement on a database with a past."""
    count = plan.finished if past is Past.FINISHED else plan.waiting
    return f"{count:,} {past.value}"


def queues_case(plan: Plan) -> str:
    """The name of the measurement with many queues."""
    return f"{plan.queues} queues"


def delayed_case(plan: Plan) -> str:
    """The name of the measurement with delayed jobs."""
    return f"{plan.delayed:,} more are due in the same second"


async def measure_growth(
    ground: Ground, contestant: Contestant, plan: Plan, *, announce: Callable[[str], None]
) -> AsyncGenerator[Measurement, None]:
    """Fills the databases, then measures on each of them in turn, round by round.

    Args:
        ground: what Headrace stands on.
        contestant: Headrace.
        plan: says how much.
        announce: is told what comes next.
    """
    async with AsyncExitStack() as running:
        urls: dict[str, str] = {}
        for past in Past:
            name = case(plan, past)
            count = plan.finished if past is Past.FINISHED else plan.waiting
            if not count:
                continue
            announce(f"E: putting in {name}")
            url = await running.enter_async_context(ground.databases.fresh(migrated=True))
            await fill(ground.databases, url, past, count)
            urls[name] = url
        for number in range(1, plan.rounds + 1):
            cases = _cases(plan, urls)
            # What comes first in one round comes last in the next.
            for name, fields in cases if number % 2 else reversed(cases):
                announce(f"E: {name}, round {number}")
                async with Stage.of(
                    ground, contestant, mode=MODE, database_url=urls.get(name, "")
                ) as stage:
                    yield await measure_end_to_end(
                        stage, plan=plan, number=number, figure="E", case=name, **fields
                    )


def _cases(plan: Plan, pasts: Iterable[str]) -> list[tuple[str, dict[str, object]]]:
    """The measurements of a round, and what they ask for."""
    cases: list[tuple[str, dict[str, object]]] = [(EMPTY, {}), *((name, {}) for name in pasts)]
    if plan.queues:
        cases.append((queues_case(plan), {"queues": plan.queues}))
    if plan.delayed:
        cases.append((delayed_case(plan), {"delayed": plan.delayed}))
    return cases
