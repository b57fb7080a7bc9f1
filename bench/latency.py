"""Percentiles of latencies, from an HDR histogram."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

from hdrh.histogram import HdrHistogram

# The range in microseconds, from 1 µs to one minute, and the number of significant digits.
_MIN_US: Final = 1
_MAX_US: Final = 60_000_000
_DIGITS: Final = 3
_US_PER_MS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The number and percentiles of some latencies, in milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, microseconds: Iterable[int]) -> Latency:
        """Return the percentiles of latencies in microseconds; all are 0 if there are none."""
        histogram = HdrHistogram(_MIN_US, _MAX_US, _DIGITS)
        for value in microseconds:
            histogram.record_value(min(max(value, _MIN_US), _MAX_US))
        count: int = histogram.get_total_count()
        p50, p95, p99 = (histogram.get_value_at_percentile(p) / _US_PER_MS for p in (50, 95, 99))
        largest = histogram.get_max_value() / _US_PER_MS if count else 0.0
        return cls(count=count, p50=p50, p95=p95, p99=p99, max=largest)

    def document(self) -> dict[str, float]:
        """Return all fields as JSON data."""
        return asdict(self)
