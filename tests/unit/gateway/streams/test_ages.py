"""The histogram of event ages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from headrace_core.domain.job import JobEvent
from headrace_gateway.streams.gauges import AGE_BOUNDS, Ages

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_event_counts_in_the_first_bucket_above_its_age(
    make_event: Callable[..., JobEvent],
):
    ages = Ages()
    seconds = [0.0015, 0.015, 0.015, 3.0, 100.0]
    events = [make_event(time=NOW - timedelta(seconds=age)) for age in seconds]
    ages.add(events[:2], now=NOW.timestamp())
    ages.add(events[2:], now=NOW.timestamp())
    cumulative = dict(zip([*AGE_BOUNDS, "more"], ages.cumulative(), strict=True))
    assert cumulative[0.001] == 0
    assert cumulative[0.002] == 1
    assert cumulative[0.01] == 1
    assert cumulative[0.02] == 3
    assert cumulative[5.0] == 4
    assert cumulative[60.0] == 4
    assert cumulative["more"] == 5
    assert ages.total == pytest.approx(sum(seconds), abs=0.001)


def test_event_from_the_future_counts_as_new(make_event: Callable[..., JobEvent]):
    ages = Ages()
    ages.add([make_event(time=NOW + timedelta(milliseconds=1))], now=NOW.timestamp())
    assert ages.cumulative() == [1] * (len(AGE_BOUNDS) + 1)
    assert ages.total == 0
