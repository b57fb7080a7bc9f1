"""Retention rules: their text and their precedence."""

from __future__ import annotations

from datetime import timedelta

import pytest

from headrace_core.domain.lifecycle import TERMINAL, JobState
from headrace_core.domain.retention import Retention, parse_rules

DAY = timedelta(days=1)


def test_most_specific_rule_applies() -> None:
    rules = parse_rules("failed=30d, acme=3d, acme/failed=90d, other=2d")
    kept = Retention(default=7 * DAY, rules=rules)
    assert kept.of("acme", JobState.FAILED) == 90 * DAY
    assert kept.of("acme", JobState.SUCCEEDED) == 3 * DAY
    # A tenant rule takes precedence over a state rule.
    assert kept.of("other", JobState.FAILED) == 2 * DAY
    assert kept.of("default", JobState.FAILED) == 30 * DAY
    assert kept.of("default", JobState.CANCELLED) == 7 * DAY


def test_default_applies_without_rules() -> None:
    assert parse_rules("") == parse_rules(" , ") == {}
    kept = Retention(default=DAY)
    assert {kept.of("default", state) for state in TERMINAL} == {DAY}


@pytest.mark.parametrize(
    ("age", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("0.5d", 43_200), ("36500d", 3.1536e9)],
)
def test_age_is_seconds_or_has_a_unit(age: str, seconds: float) -> None:
    assert parse_rules(f"acme={age}") == {("acme", None): timedelta(seconds=seconds)}


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ("failed", "'failed' must be a state, a tenant or tenant/state, then = and an age"),
        ("=3d", "'=3d' must name a state, a tenant or tenant/state"),
        ("acme/=3d", "must name a state"),
        ("/failed=3d", "must name a state"),
        ("acme/lost=3d", "'lost' is not a terminal state"),
        ("running=3d", "'running' is not a terminal state"),
        ("a/b/failed=3d", "'b/failed' is not a terminal state"),
        ("failed=3w", "'3w' must be a number, optionally with s, m, h or d"),
        ("failed=", "'' must be a number"),
        ("failed=-3d", "'-3d' must be a number"),
        ("failed=0", "'0' must be more than 0 and at most 36500d"),
        ("failed=36501d", "at most 36500d"),
        ("failed=1d, acme=2d, failed = 3d", "'failed' has two rules; remove one"),
    ],
)
def test_invalid_rule_error_names_the_problem(rules: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_rules(rules)
