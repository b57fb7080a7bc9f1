"""Limits of rejected tokens, with a clock that the tests set."""

from __future__ import annotations

import base64
import json

import pytest

from headrace_core.domain.errors import TokensThrottled
from headrace_gateway.access.token_throttle import TokenThrottle
from support.clock import Clock

HOST = "192.0.2.1"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> TokenThrottle:
    return TokenThrottle(clock=clock)


def token(subject: object, signature: str = "x") -> str:
    """Return a token with the claim `sub`."""
    claims = json.dumps({"iss": "issuer", "sub": subject}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.{signature}"


def is_verified(throttle: TokenThrottle, subject: object, host: str = HOST) -> bool:
    """Return whether the throttle lets a token be verified."""
    try:
        throttle.check(host, token(subject))
    except TokensThrottled:
        return False
    return True


def exhaust(throttle: TokenThrottle, subject: object, host: str = HOST) -> None:
    """Reject tokens until they are throttled."""
    for _ in range(1000):
        if not is_verified(throttle, subject, host):
            return
        throttle.reject(host, token(subject))
    pytest.fail("the tokens are not throttled")


def test_rejected_tokens_are_throttled_by_address(throttle: TokenThrottle) -> None:
    exhaust(throttle, "mallory")
    assert not is_verified(throttle, "another name")
    assert is_verified(throttle, "mallory", host="192.0.2.2")


def test_bucket_of_an_address_refills(throttle: TokenThrottle, clock: Clock) -> None:
    exhaust(throttle, "mallory")
    clock.now += 1
    assert is_verified(throttle, "bob")


def test_known_subject_is_verified_at_a_throttled_address(throttle: TokenThrottle) -> None:
    throttle.accept(HOST, token("ada"))
    exhaust(throttle, "mallory")
    assert is_verified(throttle, "ada")


def test_known_subject_has_its_own_bucket(throttle: TokenThrottle) -> None:
    throttle.accept(HOST, token("ada"))
    throttle.accept(HOST, token("bob"))
    exhaust(throttle, "mallory")
    exhaust(throttle, "ada")
    assert is_verified(throttle, "bob")


def test_rejected_tokens_of_a_known_subject_do_not_count_for_others(
    throttle: TokenThrottle,
) -> None:
    throttle.accept(HOST, token("ada"))
    for _ in range(1000):
        throttle.reject(HOST, token("ada"))
    assert is_verified(throttle, "bob")


def test_valid_tokens_cost_nothing(throttle: TokenThrottle) -> None:
    for number in range(1000):
        throttle.check(HOST, token(f"user {number}"))
        throttle.accept(HOST, token(f"user {number}"))
    assert is_verified(throttle, "ada")


def test_addresses_of_one_ipv6_network_share_a_bucket(throttle: TokenThrottle) -> None:
    exhaust(throttle, "mallory", host="2001:db8::1")
    assert not is_verified(throttle, "mallory", host="2001:db8::2")


@pytest.mark.parametrize("subject", [None, 7, ["ada"], {"a": 1}])
def test_subject_of_any_type_is_counted(throttle: TokenThrottle, subject: object) -> None:
    exhaust(throttle, subject)
