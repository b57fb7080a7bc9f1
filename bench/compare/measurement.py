"""What was measured once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One contestant in one round.

    Args:
        figure: its letter.
        contestant: the name.
        case: which of the figure's columns.
        round: from 1.
        values: what was measured, by names that say the unit.
        cpu: CPU microseconds for each job, by process.
        samples: latencies, in microseconds.
        note: what is different from what was asked for.
    """

    figure: str
    contestant: str
    case: str
    round: int
    values: Mapping[str, float]
    cpu: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[int, ...] = ()
    note: str = ""

    def document(self) -> dict[str, object]:
        """All of it but the samples, for JSON."""
        said = asdict(self)
        del said["samples"]
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A measurement that came to nothing.

    Args:
        figure: its letter.
        contestant: the name.
        reason: why.
    """

    figure: str
    contestant: str
    reason: str
