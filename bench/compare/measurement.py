"""The measurements of single rounds, and their failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The values of one contestant in one round.

    Args:
        figure: the figure's letter.
        contestant: the contestant's name.
        case: the column of the figure's table.
        round: the round number, from 1.
        values: the measured values; each name contains the unit.
        cpu: CPU microseconds per job, by process.
        samples: latencies, in microseconds.
        note: the deviation from the plan, if any.
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
        """Return all fields except the samples as JSON data."""
        fields = asdict(self)
        del fields["samples"]
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A measurement that failed.

    Args:
        figure: the figure's letter.
        contestant: the contestant's name.
        reason: the error message, on one or more lines.
    """

    figure: str
    contestant: str
    reason: str
