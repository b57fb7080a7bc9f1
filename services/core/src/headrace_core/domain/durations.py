"""Histograms of durations, with buckets of a constant relative width.

The bucket `i` contains the durations above 2^((i-1)/4) ms and up to 2^(i/4) ms. As in
HdrHistogram, the relative error of a quantile is therefore bounded: it is at most 9 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

# Buckets per doubling of the duration.
BUCKETS_PER_DOUBLING: Final = 4
# The last bucket contains all durations above two and a half days.
LAST_BUCKET: Final = 111


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration."""
    if seconds <= 0.001:
        return 0
    return min(LAST_BUCKET, math.ceil(BUCKETS_PER_DOUBLING * math.log2(seconds * 1000)))


def quantile(counts: Mapping[int, int], share: float) -> timedelta | None:
    """Return the duration below which a share of the counted durations is.

    Args:
        counts: the number of durations by bucket.
        share: 0.5 for the median.

    Returns:
        The geometric middle of a bucket; None if nothing was counted.
    """
    total = sum(counts.values())
    if not total:
        return None
    rank = max(1, math.ceil(total * share))
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            break
    return timedelta(seconds=middle(bucket))


def middle(bucket: int) -> float:
    """Return the geometric middle of a bucket, in seconds."""
    return 2 ** ((bucket - 0.5) / BUCKETS_PER_DOUBLING) / 1000 if bucket else 0.001
