"""`ctx.progress` raises for values that responses cannot represent."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from headrace_core.domain.job import JsonText, Progress
from headrace_worker.api.context import as_progress
from headrace_worker.api.errors import Fail, InvalidProgress


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ({"n": "a" * 17_000_000}, "n is a str; pass an int or a float"),
        ({"n": True}, "n is a bool"),
        ({"n": None}, "n is a NoneType"),
        ({"n": [1]}, "n is a list"),
        ({"n": Decimal(1)}, "n is a Decimal"),
        ({"n": math.nan}, "n is nan; pass a finite number"),
        ({"n": -math.inf}, "n is -inf"),
        ({"n": 2**63}, "n needs more than 64 bits"),
        ({"n": 10**5000}, "n needs more than 64 bits"),
        ({"n": Fraction(10**400, 3)}, "n is inf"),
        ({"n" * 65: 1}, "use 1 to 64 printable characters"),
        ({"": 1}, "use 1 to 64 printable characters"),
        ({"a\0": 1}, "use 1 to 64 printable characters"),
        ({"\udcff": 1}, "use 1 to 64 printable characters"),
        ({str(n): n for n in range(65)}, "65 counters; at most 64 are allowed"),
    ],
)
def test_progress_with_a_bad_counter_raises(counters: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidProgress) as caught:
        as_progress(0.5, "x", counters)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 200
    assert isinstance(caught.value, Fail)
    assert caught.value.type == "InvalidProgress"


@pytest.mark.parametrize("fraction", [math.nan, math.inf, "0.5", None, True])
def test_progress_with_a_bad_fraction_raises(fraction: Any) -> None:
    with pytest.raises(InvalidProgress, match="fraction is"):
        as_progress(fraction, "", {})


@pytest.mark.parametrize(
    ("message", "expected"),
    [("a" * 4097, "4097 bytes; at most 4096"), ("ä" * 2049, "4098 bytes"), (b"x", "a bytes")],
)
def test_progress_with_a_bad_message_raises(message: Any, expected: str) -> None:
    with pytest.raises(InvalidProgress, match=expected):
        as_progress(0.5, message, {})


def test_progress_at_its_limits_is_accepted() -> None:
    counters = {"ä" * 64: 1.5, "most": 2**63 - 1, "least": -(2**63), "half": Fraction(1, 2)}
    counters |= {str(n): n for n in range(60)}
    progress = as_progress(7, "ä" * 2048, counters)
    assert progress == Progress(fraction=1.0, message="ä" * 2048, counters=progress.counters)
    assert msgspec.json.decode(progress.counters) == counters | {"half": 0.5}
    text: JsonText = progress.counters
    assert len(text) < 8192


def test_progress_message_with_control_characters_is_cleaned() -> None:
    assert as_progress(0.5, "a\x00b\udcff\x1b[2J", {}).message == "a?b??[2J"
