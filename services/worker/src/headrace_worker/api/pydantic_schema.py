"""JSON Schemas that accept exactly the values of pydantic models.

pydantic's own schemas omit constraints that JSON Schema cannot express: decimals in strings, times
with or without a zone, keys that are not strings. The keyword VALUE_KEYWORD adds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from headrace_core.domain.handler import VALUE_KEYWORD

_INEXACT_TYPES: Final = frozenset({"date", "datetime", "decimal", "time", "timedelta", "uuid"})
_CONSTRAINT_NAMES: Final = (
    *("ge", "gt", "le", "lt", "multiple_of", "max_digits", "decimal_places", "allow_inf_nan"),
    *("tz_constraint", "now_op", "now_utc_offset", "version", "strict"),
    *("min_length", "max_length", "strip_whitespace", "to_lower", "to_upper", "pattern"),
)


def exact_schema(write: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Return the schema that `write` generates, with all constraints.

    Args:
        write: `model_json_schema` of a model, or `json_schema` of a TypeAdapter.
    """
    return write(schema_generator=_Generator)


class _Generator(GenerateJsonSchema):
    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        found = super().generate_inner(schema)
        if "type" in schema and _is_inexact(schema):
            found[VALUE_KEYWORD] = _value_constraints(schema)
        return found

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        found = super().dict_schema(schema)
        key: Any = schema.get("keys_schema", {})
        if key.get("type") in {*_INEXACT_TYPES, "bool", "float", "int"}:
            found["propertyNames"] = {VALUE_KEYWORD: {**_value_constraints(key), "key": True}}
        return found


def _is_inexact(schema: Mapping[str, Any]) -> bool:
    match schema["type"]:
        case "bytes":
            # The length of bytes differs from the length of the string that encodes them.
            return "min_length" in schema or "max_length" in schema
        case "int" | "float":
            # JSON Schema checks multipleOf on the decimal text of a number, but pydantic on the
            # float.
            return "multiple_of" in schema
        case "str":
            return bool(schema.get("strip_whitespace"))
        case kind:
            return kind in _INEXACT_TYPES


def _value_constraints(schema: Mapping[str, Any]) -> dict[str, Any]:
    value = {"by": "pydantic", "type": schema["type"]}
    for name in _CONSTRAINT_NAMES:
        if schema.get(name) is not None:
            value[name] = msgspec.to_builtins(schema[name], enc_hook=_pattern_text)
    return value


def _pattern_text(pattern: Any) -> str:
    return str(pattern.pattern)
