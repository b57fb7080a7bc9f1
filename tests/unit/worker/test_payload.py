"""Payloads and results as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, field_validator

from headrace_worker import Fail, InvalidPayload
from headrace_worker.api.payload import Decoder, PayloadMismatch, encode


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
def test_value_that_json_cannot_represent_is_rejected(value: Any) -> None:
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
def test_null_from_a_handler_is_encoded(value: Any, text: str) -> None:
    assert encode(value) == text


class Mixed(msgspec.Struct):
    whole: int
    part: float = 0.0
    rest: Any = None


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ('{"whole": 1.0}', 1),
        ('{"whole": 1e3}', 1000),
        ('{"whole": -0.0}', 0),
        ('{"whole": 9007199254740994.0}', 9007199254740994),
        ('{"whole": "x", "whole": 2}', 2),
        ('{"whole": [], "whole": 2.0}', 2),
    ],
)
def test_payloads_with_equal_content_decode_alike(text: str, whole: int) -> None:
    assert Decoder(Mixed)(text).whole == whole


class Bounded(msgspec.Struct):
    whole: int
    number: Annotated[int, msgspec.Meta(le=9)] | float


@pytest.mark.parametrize(
    "text", ['{"whole":1.0,"number":1e30}', '{"number":"x","whole":1,"number":10.0}']
)
def test_large_fraction_stays_a_float(text: str) -> None:
    assert Decoder(Bounded)(text).whole == 1


def test_negative_zero_stays_a_float() -> None:
    mixed = Decoder(Mixed)('{"whole": 1.0, "part": -0.0}')
    assert (mixed.whole, math.copysign(1, mixed.part)) == (1, -1)


@pytest.mark.parametrize(
    "text", ['{"whole": 1.5}', '{"whole": 2, "whole": "x"}', '{"whole": "1"}', '{"part": 1}', "["]
)
def test_payload_of_the_wrong_type_is_rejected(text: str) -> None:
    with pytest.raises(PayloadMismatch):
        Decoder(Mixed)(text)


class OwnRule(msgspec.Struct):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise InvalidPayload("low must not exceed high")


class OwnRuleModel(BaseModel):
    low: int

    @field_validator("low")
    @classmethod
    def _check(cls, low: int) -> int:
        if low > 9:
            raise InvalidPayload("low must not exceed 9")
        return low


@pytest.mark.parametrize(
    ("kind", "message"),
    [(OwnRule, "low must not exceed high"), (OwnRuleModel, "low: low must not exceed 9")],
)
def test_violated_handler_rule_is_shown(kind: Any, message: str) -> None:
    with pytest.raises(PayloadMismatch) as caught:
        Decoder(kind)('{"low": 10, "high": 1}')
    assert str(caught.value) == message
