"""What handlers return, as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict

from headrace_worker import Fail
from headrace_worker.payload import encode


class Struct(msgspec.Struct):
    mean: float | None


@dataclass
class Record:
    mean: float | None


class Model(BaseModel):
    mean: float | None
    parts: list[float] = []


class Constants(Model):
    model_config = ConfigDict(ser_json_inf_nan="constants")


class Strings(Model):
    model_config = ConfigDict(ser_json_inf_nan="strings")


def endless() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [1.0, math.inf],
        {"a": {"b": -math.inf}, "none": None},
        (None, {math.nan}),
        Struct(mean=math.nan),
        Record(mean=math.inf),
        Model(mean=math.nan),
        Model(mean=None, parts=[math.inf]),
        Constants(mean=math.nan),
        "\ud800",
        object(),
        endless(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_say_is_no_result(value: Any) -> None:
    with pytest.raises(Fail) as caught:
        encode(value)
    assert caught.value.type == "NotJson"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ([None, 1.5, "NaN"], '[null,1.5,"NaN"]'),
        ({"null": "null"}, '{"null":"null"}'),
        (Struct(mean=None), '{"mean":null}'),
        (Record(mean=None), '{"mean":null}'),
        (Model(mean=None), '{"mean":null,"parts":[]}'),
        (Strings(mean=math.nan), '{"mean":"NaN","parts":[]}'),
        (Decimal("NaN"), '"NaN"'),
    ],
    ids=str,
)
def test_a_null_that_the_handler_means_stays_one(value: Any, text: str) -> None:
    assert encode(value) == text
