"""A random choice of scenarios that fits a time budget; the same seed gives the same choice."""

from __future__ import annotations

import random
from collections.abc import Iterable

from faults.scenario import Scenario


def choose(
    scenarios: Iterable[Scenario], *, seed: int, budget: float, short: bool
) -> list[Scenario]:
    """Choose random scenarios while the budget has room for another one.

    Args:
        scenarios: the candidates.
        seed: the seed of the random choice.
        budget: the maximum sum of the usual durations, in seconds.
        short: use the durations of trials with shorter waits.

    Returns:
        The chosen scenarios, in the order of `scenarios`.
    """
    candidates = list(scenarios)
    chosen: list[Scenario] = []
    left = budget
    for scenario in random.Random(seed).sample(candidates, len(candidates)):
        seconds = scenario.seconds(short=short)
        if seconds <= left:
            chosen.append(scenario)
            left -= seconds
    return sorted(chosen, key=candidates.index)
