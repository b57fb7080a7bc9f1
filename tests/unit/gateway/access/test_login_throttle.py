"""Limits of failed logins, with a clock that the tests set."""

from __future__ import annotations

import pytest

from headrace_core.domain.errors import LoginThrottled
from headrace_gateway.access.buckets import Buckets, Rate
from headrace_gateway.access.login_throttle import Account, LoginThrottle, throttled_address
from support.clock import Clock

ADA = Account("default", "ada")
BOB = Account("default", "bob")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> LoginThrottle:
    return LoginThrottle(clock=clock)


def fail(throttle: LoginThrottle, account: Account, address: str) -> float:
    """Fail a login; return the wait in seconds if it is throttled, otherwise 0."""
    try:
        throttle.check_address(account, address)
        throttle.check_account(account, address)
    except LoginThrottled as error:
        return error.retry_after
    return 0.0


def succeed(throttle: LoginThrottle, account: Account, address: str) -> None:
    throttle.check_address(account, address)
    throttle.check_account(account, address)
    throttle.succeed(account, address)


def exhaust(throttle: LoginThrottle, account: Account, address: str) -> int:
    """Fail logins until one is throttled; return the number of logins before it."""
    count = 0
    while not fail(throttle, account, address):
        count += 1
        assert count < 1000
    return count


def test_bucket_allows_a_burst_and_then_its_rate(clock: Clock) -> None:
    buckets: Buckets[str] = Buckets(Rate(burst=3, seconds=10), size=10, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 10]
    clock.now += 4
    assert buckets.take("a") == pytest.approx(6)
    clock.now += 6
    assert [buckets.take("a") for _ in range(2)] == [0, 10]
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 10]


def test_returned_token_can_be_taken_again(clock: Clock) -> None:
    buckets: Buckets[str] = Buckets(Rate(burst=1, seconds=10), size=10, clock=clock)
    for _ in range(5):
        assert buckets.take("a") == 0
        buckets.give_back("a")
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0


def test_new_keys_share_one_bucket_beyond_the_maximum(clock: Clock) -> None:
    buckets: Buckets[int] = Buckets(Rate(burst=2, seconds=10), size=100, clock=clock)
    assert all(buckets.take(key) == 0 for key in range(100))
    assert [buckets.take(key) > 0 for key in range(100, 104)] == [False, False, True, True]
    # Keys that have a bucket keep it.
    assert buckets.take(0) == 0
    assert len(buckets) <= 101
    clock.now += 100
    assert buckets.take(200) == 0
    assert len(buckets) == 1


def test_failures_of_an_address_are_limited_per_user(throttle: LoginThrottle, clock: Clock) -> None:
    assert exhaust(throttle, ADA, "10.0.0.7") == 5
    assert fail(throttle, BOB, "10.0.0.7") == 0
    clock.now += 20
    assert exhaust(throttle, ADA, "10.0.0.7") == 1


def test_failures_of_an_address_are_limited(throttle: LoginThrottle) -> None:
    failed = [fail(throttle, Account("default", f"u{n}"), "10.0.0.7") for n in range(40)]
    assert [bool(wait) for wait in failed] == [False] * 30 + [True] * 10
    assert fail(throttle, ADA, "10.0.0.8") == 0


def test_many_addresses_cannot_try_many_passwords(throttle: LoginThrottle) -> None:
    waits = [fail(throttle, ADA, f"10.0.{n // 250}.{n % 250}") for n in range(1000)]
    assert sum(wait == 0 for wait in waits) == 20


def test_failures_elsewhere_do_not_lock_a_known_address(throttle: LoginThrottle) -> None:
    succeed(throttle, ADA, "10.0.0.7")
    for number in range(1000):
        fail(throttle, ADA, f"10.1.{number // 250}.{number % 250}")
    # Another user at the same address has failed too often.
    for number in range(100):
        fail(throttle, Account("default", f"u{number}"), "10.0.0.7")
    assert fail(throttle, BOB, "10.0.0.7") > 0
    succeed(throttle, ADA, "10.0.0.7")


def test_known_address_survives_a_restart_of_the_gateway(throttle: LoginThrottle) -> None:
    for number in range(1000):
        fail(throttle, ADA, f"10.1.{number // 250}.{number % 250}")
    throttle.check_address(ADA, "10.0.0.7")
    # The query for the user reported that the user has used this address.
    throttle.remember(ADA, "10.0.0.7")
    throttle.check_account(ADA, "10.0.0.7")


def test_successful_logins_do_not_count(throttle: LoginThrottle) -> None:
    for number in range(100):
        succeed(throttle, Account("default", f"u{number}"), "10.0.0.7")
        succeed(throttle, Account("default", f"u{number}"), "10.0.0.7")


def test_known_address_cannot_try_many_passwords(throttle: LoginThrottle) -> None:
    succeed(throttle, ADA, "10.0.0.7")
    assert exhaust(throttle, ADA, "10.0.0.7") == 10


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::1", "::/64"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_addresses_of_a_network_count_together(host: str, address: str) -> None:
    assert throttled_address(host) == address
