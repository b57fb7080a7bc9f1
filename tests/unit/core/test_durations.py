"""Histograms of durations."""

from __future__ import annotations

import math
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_core.domain.durations import LAST_BUCKET, bucket_of, quantile


@given(st.lists(st.floats(0.001, 100_000), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_quantile_is_within_a_tenth_of_the_exact_value(durations: list[float], share: float):
    found = quantile(Counter(map(bucket_of, durations)), share)
    exact = sorted(durations)[max(1, math.ceil(len(durations) * share)) - 1]
    assert found is not None
    assert found.total_seconds() == pytest.approx(exact, rel=0.1, abs=0.0005)


def test_shortest_and_longest_durations_have_a_bucket() -> None:
    assert bucket_of(-1.0) == bucket_of(0.0) == bucket_of(0.001) == 0
    assert bucket_of(1e9) == LAST_BUCKET


def test_quantile_of_nothing_is_absent() -> None:
    assert quantile({}, 0.5) is None


def test_quantile_ignores_empty_buckets() -> None:
    assert quantile({0: 1, 40: 0}, 0.95) == timedelta(milliseconds=1)
