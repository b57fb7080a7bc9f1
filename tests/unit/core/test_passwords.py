"""The rules and the stored form of passwords."""

from __future__ import annotations

import re

import pytest
from argon2 import extract_parameters

from headrace_core.domain.user import (
    MAX_PASSWORD,
    is_user_name,
    new_password,
    normalize_password,
    password_problem,
)
from headrace_core.store.access import passwords
from headrace_core.store.access.passwords import hash_password, is_outdated, verify_password

GOOD = "correct horse battery staple"


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("eleven-char", "has 11 characters"),
        ("x1" * 129, "has 258 characters"),
        ("x" * 5000, "has 5000 characters"),
        ("ababababababab", "at least 6 different"),
        ("charlotte-2024", "the name of the user"),
        ("my-CHARLOTTE-7x", "the name of the user"),
        ("password1234", "too common"),
        ("P@ssw0rd1234", "too common"),
        ("passwordpassword", "too common"),
        ("Welcome-2026!", "too common"),
        ("qwertyuiop123", "too common"),
        ("123456789012", "too common"),
        ("1q2w3e4r5t6y", "too common"),
        ("password" * 32, "too common"),
    ],
)
def test_weak_password_is_rejected(password: str, problem: str) -> None:
    found = password_problem(password, user="charlotte")
    assert found is not None
    assert problem in found


@pytest.mark.parametrize(
    "password", [GOOD, "Tr0ub4dor&3-xkcd", "пароль-это-не-слово", "x1y2z3" * 42]
)
def test_good_password_is_accepted(password: str) -> None:
    assert len(password) <= MAX_PASSWORD
    assert password_problem(password, user="ada") is None


def test_short_user_name_may_be_part_of_a_password() -> None:
    assert password_problem("an-adamant-otter", user="ada") is None
    assert password_problem("Ada.Lovelace@x", user="ada.lovelace@x") is not None


def test_random_passwords_are_acceptable_and_differ() -> None:
    found = {new_password() for _ in range(10)}
    assert len(found) == 10
    assert all(password_problem(password, user="ada") is None for password in found)


@pytest.mark.parametrize("name", ["a", "Ada.Lovelace+ops@example.com", "0" * 128])
def test_valid_user_name_is_accepted(name: str) -> None:
    assert is_user_name(name)


@pytest.mark.parametrize("name", ["", "-a", "@a", "a b", "a\n", "ä", "a" * 129, "a\0"])
def test_malformed_user_name_is_rejected(name: str) -> None:
    assert not is_user_name(name)


def test_password_matches_only_its_own_hash() -> None:
    stored = hash_password(GOOD)
    assert GOOD not in stored
    assert verify_password(stored, GOOD)
    assert not verify_password(stored, f"{GOOD} ")
    assert hash_password(GOOD) != stored


def test_password_matches_in_each_unicode_form() -> None:
    composed, decomposed = "caf\u00e9-au-lait-7", "cafe\u0301-au-lait-7"
    assert normalize_password(decomposed) == composed
    assert verify_password(hash_password(composed), decomposed)


def test_unknown_user_matches_no_password() -> None:
    assert not verify_password(None, GOOD)
    assert not verify_password(None, "")
    assert not verify_password("not a hash", GOOD)


def test_unknown_user_costs_as_much_as_a_known_one() -> None:
    unknown, known = passwords._UNKNOWN_USER_HASH, hash_password(GOOD)
    assert extract_parameters(unknown) == extract_parameters(known)
    assert not is_outdated(unknown)
    assert [len(part) for part in unknown.split("$")] == [len(part) for part in known.split("$")]


def test_hash_with_other_parameters_is_outdated() -> None:
    assert not is_outdated(hash_password(GOOD))
    assert is_outdated(re.sub(r"t=\d", "t=1", hash_password(GOOD)))
