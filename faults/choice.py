"""A choice of scenarios that fits into a time: the same with the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterable

from faults.scenario import Scenario


def choose(
    scenarios: Iterable[Scenario], *, seed: int, budget: float, short: bool
) -> list[Scenario]:
    """Draws scenarios as long as there is time for another one.

    Args:
        scenarios: to choose from.
        seed: decides which.
        budget: seconds for all of them together, by what they usually take.
        short: whether they are run with shorter waits.

    Returns:
        Those that were drawn, in the order of `scenarios`.
    """
    given = list(scenarios)
    drawn: list[Scenario] = []
    left = budget
    for scenario in random.Random(seed).sample(given, len(given)):
        seconds = scenario.seconds(short=short)
        if seconds <= left:
            drawn.append(scenario)
            left -= seconds
    return sorted(drawn, key=given.index)
