"""Rolling counts."""

from __future__ import annotations

from headrace_gateway.streams.rolling import RollingCounts


def test_counts_leave_after_the_period() -> None:
    counts: RollingCounts[str] = RollingCounts(10)
    counts.add("a", time=100.0)
    counts.add("a", time=105.0, count=2)
    counts.add("b", time=105.0)
    counts.expire(109.9)
    assert counts.total == {"a": 3, "b": 1}
    counts.expire(110.2)
    assert counts.total == {"a": 2, "b": 1}
    counts.expire(115.2)
    assert not counts.total


def test_late_count_is_included_in_its_own_slot() -> None:
    counts: RollingCounts[str] = RollingCounts(10)
    counts.add("a", time=105.0)
    counts.add("a", time=101.0)
    counts.expire(111.2)
    assert counts.total == {"a": 1}


def test_keys_beyond_the_limit_are_not_counted() -> None:
    counts: RollingCounts[int] = RollingCounts(10, max_keys=2)
    for key in range(5):
        counts.add(key, time=100.0)
    counts.add(1, time=100.0)
    assert counts.total == {0: 1, 1: 2}
