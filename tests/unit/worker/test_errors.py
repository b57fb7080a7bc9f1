"""The exceptions that handlers raise check their arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from headrace_worker import Fail, Retry


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda wrong: Retry("x", after=wrong("5")), "after of Retry .*, not str"),
        (lambda wrong: Retry("x", after=wrong(True)), "after of Retry .*, not bool"),
        (lambda wrong: Retry(wrong(5)), "message of Retry .*, not int"),
        (lambda wrong: Fail("x", type=wrong(5)), "type of Fail .*, not int"),
        (lambda wrong: Fail("x", type=wrong(None)), "type of Fail .*, not NoneType"),
        (lambda wrong: Fail(wrong(ValueError("y"))), "message of Fail .*, not ValueError$"),
    ],
)
def test_argument_of_the_wrong_type_is_rejected(make: Callable[[Any], object], named: str) -> None:
    with pytest.raises(TypeError, match=named):
        make(lambda value: value)


@pytest.mark.parametrize(
    ("after", "wait"),
    [
        (None, None),
        (1.5, timedelta(seconds=1.5)),
        (timedelta(minutes=1), timedelta(minutes=1)),
        (math.inf, timedelta.max),
        (10**30, timedelta.max),
        (-math.inf, timedelta()),
    ],
)
def test_retry_keeps_its_wait(after: float | timedelta | None, wait: timedelta | None) -> None:
    assert Retry("x", after=after).after == wait


def test_retry_after_nan_is_rejected() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Retry("x", after=math.nan)


def test_subclass_without_init_has_defaults() -> None:
    class Silent(Fail):
        def __init__(self) -> None:
            pass

    class Later(Retry):
        def __init__(self) -> None:
            pass

    assert Silent().type == "Fail"
    assert Later().wait is None


@pytest.mark.parametrize(
    ("after", "wait"), [(30, timedelta(seconds=30)), ("5", None), (math.nan, None)]
)
def test_subclass_after_is_checked(after: Any, wait: timedelta | None) -> None:
    error = Retry("x")
    error.after = after
    assert error.wait == wait
