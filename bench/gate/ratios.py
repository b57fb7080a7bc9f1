"""Ratios of two commits with confidence intervals.

Each round measures both commits, one after the other. The ratio of a round is free of what both
have in common, such as the speed of the machine at that time. The figure is the geometric mean of
the ratios of all rounds. Its confidence interval is that of Student's t distribution for the
logarithms of the ratios.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

# The values of one run, by name. Values whose names end with `/s` are better if higher; all others
# are better if lower.
Values: TypeAlias = Mapping[str, float]

# The 97.5 % quantiles of Student's t distribution, by degrees of freedom from 2 (NIST/SEMATECH
# e-Handbook of Statistical Methods, section 1.3.6.7.2). They give an interval of 95 %.
_QUANTILES: Final = (
    *(4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
MIN_ROUNDS: Final = 3
MAX_ROUNDS: Final = MIN_ROUNDS + len(_QUANTILES) - 1


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
        rounds: for each of MIN_ROUNDS to MAX_ROUNDS rounds, the values of the base and of this
            commit.
    """
    shared = [
        name for name in rounds[0][0] if all(name in base and name in new for base, new in rounds)
    ]
    return [_ratio(name, [(base[name], new[name]) for base, new in rounds]) for name in shared]


def _ratio(name: str, pairs: Sequence[tuple[float, float]]) -> Ratio:
    sign = 1 if name.endswith("/s") else -1
    logs = [sign * math.log(new / base) for base, new in pairs]
    mean = statistics.mean(logs)
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    margin = _QUANTILES[len(logs) - MIN_ROUNDS] * error
    return Ratio(
        name=name,
        base=statistics.median(base for base, _ in pairs),
        new=statistics.median(new for _, new in pairs),
        ratio=math.exp(mean),
        low=math.exp(mean - margin),
        high=math.exp(mean + margin),
    )
