"""Single values are checked as the handler's library checks them."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from headrace_core.domain.handler import VALUE_KEYWORD
from headrace_gateway.api.payload_schema import KnownHandler, limit_numbers


def accepts(schema: dict[str, Any], payload: Any) -> bool:
    return KnownHandler("t", "default", json.dumps(schema)).accepts(payload)


def test_violation_contains_the_type_and_not_the_value() -> None:
    schema = {"properties": {"at": {VALUE_KEYWORD: {"by": "msgspec", "type": "date"}}}}
    handler = KnownHandler("t", "default", json.dumps(schema))
    [violation] = handler.violations({"at": "secret"}, "payload")
    assert (violation.field, violation.description) == (
        "payload.at",
        "the value is not a valid date",
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "date",
        {},
        {"by": "msgspec"},
        {"by": "msgspec", "type": "object"},
        {"by": "msgspec", "type": ["date"]},
        {"by": "pydantic", "type": "function-plain"},
        {"by": "pydantic", "type": "decimal", "max_digits": "many"},
        {"by": "attrs", "type": "date"},
    ],
)
def test_unknown_schema_type_is_not_checked(value: Any) -> None:
    assert accepts({VALUE_KEYWORD: value}, "anything")


def test_unknown_schema_constraint_is_ignored() -> None:
    value = {"by": "pydantic", "type": "str", "min_length": 2, "regex_engine": "python-re"}
    assert accepts({VALUE_KEYWORD: value}, "ab")
    assert not accepts({VALUE_KEYWORD: value}, "a")


def test_numbers_are_bounded_to_doubles() -> None:
    limit = sys.float_info.max
    schema = {
        "properties": {"default": {"type": "number"}, "type": {"type": "number", "minimum": 0}},
        "default": {"type": "number"},
    }
    assert limit_numbers(schema) == {
        "properties": {
            "default": {"type": "number", "minimum": -limit, "maximum": limit},
            "type": {"type": "number", "minimum": 0, "maximum": limit},
        },
        "default": {"type": "number"},
    }
    assert accepts({"type": "number"}, 10**308)
    assert not accepts({"type": "number"}, 10**309)
    assert accepts({"type": "integer"}, 10**309)
