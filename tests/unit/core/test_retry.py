"""Retry policies: waits, attempts and overrides."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headrace_core.domain.retry import RetryOverrides, RetryPolicy

waits = st.timedeltas(timedelta(), timedelta(days=30))
draws = st.floats(0, 1, exclude_max=True)
fractions = st.floats(0, 1)
multipliers = st.floats(1, 100)
attempts = st.integers(1, 100)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    shorter, longer = sorted((draw(waits), draw(waits)))
    return RetryPolicy(
        max_attempts=draw(attempts),
        initial_backoff=shorter,
        max_backoff=longer,
        multiplier=draw(multipliers),
        jitter=draw(fractions),
    )


overrides = st.builds(
    RetryOverrides,
    max_attempts=st.none() | attempts,
    initial_backoff=st.none() | waits,
    max_backoff=st.none() | waits,
    multiplier=st.none() | multipliers,
    jitter=st.none() | fractions,
)


@given(policies(), st.integers(1, 10_000), draws)
def test_backoff_is_within_zero_and_max_backoff(
    policy: RetryPolicy, retry: int, draw: float
) -> None:
    assert timedelta() <= policy.backoff(retry, lambda: draw) <= policy.max_backoff


@given(policies(), st.integers(1, 10_000), draws, waits)
def test_requested_wait_is_lengthened_by_jitter(
    policy: RetryPolicy, retry: int, draw: float, requested_wait: timedelta
) -> None:
    wait = policy.backoff(retry, lambda: draw, at_least=requested_wait)
    assert requested_wait <= wait <= requested_wait + policy.max_backoff
    assert policy.backoff(retry, lambda: 0.0, at_least=requested_wait) == requested_wait


def test_equal_requested_waits_end_at_different_times() -> None:
    policy = RetryPolicy(initial_backoff=timedelta(seconds=1), max_backoff=timedelta(seconds=30))
    requested_wait = timedelta(seconds=5)
    seconds = Counter(
        int(policy.backoff(6, at_least=requested_wait).total_seconds()) for _ in range(1000)
    )
    assert min(seconds) >= 5
    assert max(seconds.values()) < 100


@given(policies(), st.integers(1, 10_000), draws)
def test_jitter_shortens_the_backoff_by_at_most_its_share(
    policy: RetryPolicy, retry: int, draw: float
) -> None:
    full_backoff = policy.backoff(retry, lambda: 0.0)
    least = full_backoff * (1 - policy.jitter)
    # A timedelta has a resolution of microseconds.
    assert policy.backoff(retry, lambda: draw) >= least - timedelta(microseconds=1)


@given(policies(), st.integers(1, 10_000))
def test_backoff_without_jitter_never_shrinks(policy: RetryPolicy, retry: int) -> None:
    assert policy.backoff(retry + 1, lambda: 0.0) >= policy.backoff(retry, lambda: 0.0)


def test_backoff_grows_by_the_multiplier_up_to_its_maximum() -> None:
    policy = RetryPolicy(
        initial_backoff=timedelta(seconds=1), max_backoff=timedelta(seconds=10), multiplier=3
    )
    waits = [policy.backoff(retry, lambda: 0.0).total_seconds() for retry in range(1, 6)]
    assert waits == [1, 3, 9, 10, 10]


def test_full_jitter_spreads_backoffs_over_the_whole_range() -> None:
    policy = RetryPolicy(initial_backoff=timedelta(seconds=1), jitter=1)
    drawn = [policy.backoff(1).total_seconds() for _ in range(2000)]
    assert 0 <= min(drawn) < 0.05
    assert 0.95 < max(drawn) <= 1
    assert 0.45 < sum(drawn) / len(drawn) < 0.55


@given(attempts)
def test_policy_allows_one_retry_fewer_than_attempts(max_attempts: int) -> None:
    policy = RetryPolicy(max_attempts=max_attempts)
    allowed = [policy.may_retry(used) for used in range(max_attempts + 2)]
    assert allowed == [used < max_attempts - 1 for used in range(max_attempts + 2)]


@given(overrides, policies())
def test_override_replaces_the_policy_field(override: RetryOverrides, policy: RetryPolicy) -> None:
    both = override.initial_backoff is not None and override.max_backoff is not None
    assume(not both or override.initial_backoff <= override.max_backoff)
    merged = override.applied_to(policy)
    for name in RetryOverrides.__dataclass_fields__:
        wanted = getattr(override, name)
        if wanted is not None:
            assert getattr(merged, name) == wanted
        elif "backoff" not in name:
            assert getattr(merged, name) == getattr(policy, name)


def test_single_backoff_override_adjusts_the_other() -> None:
    policy = RetryPolicy(initial_backoff=timedelta(seconds=10), max_backoff=timedelta(seconds=60))
    longer = RetryOverrides(initial_backoff=timedelta(seconds=90)).applied_to(policy)
    assert longer.max_backoff == timedelta(seconds=90)
    shorter = RetryOverrides(max_backoff=timedelta(seconds=5)).applied_to(policy)
    assert shorter.initial_backoff == timedelta(seconds=5)


def test_overrides_without_fields_change_nothing() -> None:
    policy = RetryPolicy(max_attempts=7, jitter=0)
    assert RetryOverrides().applied_to(policy) == policy


def test_override_can_remove_the_jitter() -> None:
    assert RetryOverrides(jitter=0).applied_to(RetryPolicy(jitter=1)).jitter == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"max_attempts": 0},
        {"max_attempts": 101},
        {"initial_backoff": timedelta(seconds=-1)},
        {"max_backoff": timedelta.max},
        {"initial_backoff": timedelta(seconds=2), "max_backoff": timedelta(seconds=1)},
        {"multiplier": 0.5},
        {"multiplier": 101},
        {"multiplier": float("nan")},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": float("nan")},
        {"non_retryable_error_types": ("",)},
        {"non_retryable_error_types": ("a\0b",)},
        {"non_retryable_error_types": ("a" * 201,)},
        {"non_retryable_error_types": ("a",) * 33},
    ],
    ids=str,
)
def test_policy_with_a_value_out_of_range_is_rejected(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        RetryPolicy(**fields)


def test_single_error_type_instead_of_a_tuple_is_rejected() -> None:
    with pytest.raises(TypeError, match="must"):
        RetryPolicy(non_retryable_error_types="ValueError")  # type: ignore[arg-type]


def test_error_types_are_compared_exactly() -> None:
    policy = RetryPolicy(non_retryable_error_types=("ValueError", "TIMEOUT"))
    assert not policy.is_retryable("ValueError")
    assert not policy.is_retryable("TIMEOUT")
    assert policy.is_retryable("valueerror")
    assert policy.is_retryable("KeyError")


def test_job_error_types_override_the_handler_ones() -> None:
    handlers = RetryPolicy(non_retryable_error_types=("ValueError",))
    named = RetryOverrides(non_retryable_error_types=("KeyError",))
    assert named.applied_to(handlers).non_retryable_error_types == ("KeyError",)
    assert RetryOverrides().applied_to(handlers) == handlers
