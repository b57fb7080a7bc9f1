"""Ratios of two commits with confidence intervals.

Each round measures both commits, one after the other. The ratio of a round is free of what both
have in common, such as the speed of the machine at that time. The figure is the geometric mean of
the ratios of all rounds. Its confidence interval is a percentile bootstrap over the rounds (Efron
and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

# The values of one run, by name. Values whose names end with `/s` are better if higher; all others
# are better if lower.
Values: TypeAlias = Mapping[str, float]

_RESAMPLES: Final = 4000
# The share of resamples within the interval.
_CONFIDENCE: Final = 0.95
_SEED: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The speed of this commit relative to the base, above 1 if it is faster.

    Attributes:
        name: the name of the value.
        base, new: the medians of the value.
        ratio: the geometric mean of the ratios of all rounds.
        low, high: the 95 % confidence interval of `ratio`.
    """

    name: str
    base: float
    new: float
    ratio: float
    low: float
    high: float

    def is_loss(self, maximum: float) -> bool:
        """Return whether the speed is lower by more than a share, such as 0.05, beyond doubt."""
        return self.high < 1 - maximum


def ratios(rounds: Sequence[tuple[Values, Values]]) -> list[Ratio]:
    """Return the ratio of each value that all rounds have.

    Args:
        rounds: for each round, the values of the base and of this commit.
    """
    shared = [
        name for name in rounds[0][0] if all(name in base and name in new for base, new in rounds)
    ]
    rng = random.Random(_SEED)
    return [_ratio(name, [(base[name], new[name]) for base, new in rounds], rng) for name in shared]


def _ratio(name: str, pairs: Sequence[tuple[float, float]], rng: random.Random) -> Ratio:
    sign = 1 if name.endswith("/s") else -1
    logs = [sign * math.log(new / base) for base, new in pairs]
    means = sorted(_mean(rng.choices(logs, k=len(logs))) for _ in range(_RESAMPLES))
    tail = round(_RESAMPLES * (1 - _CONFIDENCE) / 2)
    return Ratio(
        name=name,
        base=_median(base for base, _ in pairs),
        new=_median(new for _, new in pairs),
        ratio=math.exp(_mean(logs)),
        low=math.exp(means[tail]),
        high=math.exp(means[-1 - tail]),
    )


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _median(numbers: Iterable[float]) -> float:
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
