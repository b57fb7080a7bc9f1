"""The form of refresh tokens."""

from __future__ import annotations

from uuid import uuid4

import pytest

from headrace_core.domain.refresh_token import new_refresh_token, read_refresh_token

SECRET = b"s" * 32


def test_token_survives_a_round_trip() -> None:
    token = new_refresh_token(uuid4())
    assert read_refresh_token(SECRET, token.text(SECRET)) == token
    assert token.text(SECRET) not in repr(token)
    assert repr(token.secret) not in repr(token)


def test_token_of_another_installation_is_rejected() -> None:
    text = new_refresh_token(uuid4()).text(b"t" * 32)
    assert read_refresh_token(SECRET, text) is None


@pytest.mark.parametrize("place", [4, 20, 40, 60, 80, 88])
def test_changed_token_is_rejected(place: int) -> None:
    text = new_refresh_token(uuid4()).text(SECRET)
    other = "A" if text[place] != "A" else "B"
    assert read_refresh_token(SECRET, text[:place] + other + text[place + 1 :]) is None


@pytest.mark.parametrize("text", ["", "hrs_", "hrs_" + "A" * 86, "hr_x", "hrs_" + "A" * 87, "é"])
def test_other_text_is_rejected(text: str) -> None:
    assert read_refresh_token(SECRET, text) is None


def test_repeated_refresh_returns_the_same_token() -> None:
    token = new_refresh_token(uuid4())
    following = token.next(SECRET)
    assert following == token.next(SECRET)
    assert following.session_id == token.session_id
    assert len({token.hash, following.hash, following.next(SECRET).hash}) == 3
    assert token.next(b"t" * 32) != following
