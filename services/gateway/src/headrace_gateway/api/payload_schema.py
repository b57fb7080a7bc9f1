"""Validates payloads against the JSON Schemas of their handlers.

The library that decodes payloads in the handler also checks values here that JSON Schema cannot
describe. Because workers supply the schemas, a schema can only use the types and constraints that
this module lists.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, Final
from uuid import UUID

import jsonschema_rs
import msgspec
import structlog
from pydantic_core import SchemaError, SchemaValidator

from headrace_core.domain.errors import Violation
from headrace_core.domain.handler import VALUE_KEYWORD
from headrace_core.domain.job import JsonText

_log = structlog.get_logger()

# The maximum number of violations reported for one payload.
_MAX_VIOLATIONS: Final = 20


@dataclass(frozen=True, slots=True)
class KnownHandler:
    """The queue and the payload schema of a type that a live worker runs."""

    type: str
    queue: str
    payload_schema: JsonText

    def accepts(self, payload: Any) -> bool:
        """Return whether a payload, as Python objects, matches the schema."""
        validator = _compile_schema(self.payload_schema)
        return validator is None or validator.is_valid(payload)

    def violations(self, payload: Any, path: str) -> Iterator[Violation]:
        """Yield the first violations of the schema, without quoting the payload.

        Args:
            payload: the payload as Python objects.
            path: the field path of the payload.
        """
        validator = _compile_schema(self.payload_schema)
        if validator is None:
            return
        for error in islice(validator.iter_errors(payload), _MAX_VIOLATIONS):
            yield Violation(path + _format_path(error.instance_path), error.message)


@lru_cache(maxsize=1024)
def _compile_schema(schema: JsonText) -> jsonschema_rs.Validator | None:
    """Compile a schema; return None if it is invalid. Its payloads are then not checked."""
    try:
        return jsonschema_rs.validator_for(
            limit_numbers(msgspec.json.decode(schema)),
            keywords={VALUE_KEYWORD: ValueKeyword},
            # Workers supply schemas, and a schema must not make the gateway open connections.
            offline=True,
            mask="the value",
        )
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        _log.warning("payload_schema_invalid", error=type(error).__name__)
        return None


def _format_path(steps: list[str | int]) -> str:
    return "".join(
        f".{step}"
        if isinstance(step, str) and step.isidentifier()
        else f"[{step}]"
        if isinstance(step, int)
        else f"[{msgspec.json.encode(step).decode()}]"
        for step in steps
    )


_MSGSPEC: Final[Mapping[str, type]] = {
    "bytes": bytes,
    "date": date,
    "datetime": datetime,
    "decimal": Decimal,
    "float": float,
    "int": int,
    "time": time,
    "timedelta": timedelta,
    "uuid": UUID,
}
_PYDANTIC: Final = frozenset(
    {"bool", "bytes", "date", "datetime", "decimal", "float", "int", "str", "time", "timedelta"}
    | {"uuid"}
)
# Only these constraints are passed to the libraries. Other arguments could make pydantic use
# Python's regular expressions, which can take exponential time.
_CONSTRAINTS: Final = frozenset(
    {"tz", "ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern"}
    | {"max_digits", "decimal_places", "allow_inf_nan", "tz_constraint", "version", "strict"}
    | {"now_op", "now_utc_offset", "strip_whitespace", "to_lower", "to_upper"}
)
# Python types of the JSON values to check, for each type that is not always a JSON string.
_CHECKED_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "decimal": (str, int, float),
    "float": (int, float),
    "int": (int, float),
}

# Keywords that map names to schemas, and keywords that contain values instead of schemas.
_SCHEMA_MAPS: Final = frozenset({"$defs", "definitions", "patternProperties", "properties"})
_VALUE_KEYWORDS: Final = frozenset({"const", "default", "enum", "examples"})

_Check = Callable[[bytes], Any]


class ValueKeyword:
    """Implements VALUE_KEYWORD for jsonschema-rs.

    Args:
        parent: the schema that contains the keyword; unused.
        value: the library (`by`), the `type`, its constraints, and whether the value is the `key`
            of an object or a `fraction`, which excludes integers. Unknown types, which newer
            workers may use, are not checked.
        path: the path of the keyword; unused.
    """

    def __init__(self, parent: Mapping[str, Any], value: Any, path: Any) -> None:
        del parent, path
        value = value if isinstance(value, dict) else {}
        self._type = str(value.get("type"))
        self._checked_types = _checked_types(value)
        self._check = _check(value)

    def validate(self, instance: Any) -> None:
        """Check a value. Values of another JSON type pass; the keyword `type` reports them.

        Raises:
            ValueError: the handler could not decode the value.
        """
        if (
            self._check is None
            or not isinstance(instance, self._checked_types)
            or isinstance(instance, bool)
        ):
            return
        if self._type == "int" and isinstance(instance, float) and instance.is_integer():
            # The worker decodes it as an integer.
            instance = int(instance)
        try:
            self._check(msgspec.json.encode(instance))
        except ValueError:
            # The library's message could quote the value.
            raise ValueError(f"the value is not a valid {self._type}") from None


def _checked_types(value: dict[str, Any]) -> tuple[type, ...]:
    """Return the Python types of the JSON values to check."""
    if value.get("key"):
        return (str,)
    if value.get("fraction") and "multiple_of" not in value:
        # JSON Schema already checks other numbers exactly, and a payload may contain many.
        return (int,)
    return _CHECKED_TYPES.get(str(value.get("type")), (str,))


def _check(value: dict[str, Any]) -> _Check | None:
    constraints = {name: item for name, item in value.items() if name in _CONSTRAINTS}
    try:
        match value:
            case {"by": "msgspec", "type": str(name)} if name in _MSGSPEC:
                kind: Any = Annotated[_MSGSPEC[name], msgspec.Meta(**constraints)]
                if value.get("key"):
                    return _key_check(msgspec.json.Decoder(dict[kind, None]).decode)
                decode = msgspec.json.Decoder(kind).decode
                return _fraction_check(decode) if value.get("fraction") else decode
            case {"by": "pydantic", "type": str(name)} if name in _PYDANTIC:
                core: Any = {"type": name, **constraints}
                if value.get("key"):
                    core = {"type": "dict", "keys_schema": core}
                    return _key_check(SchemaValidator(core).validate_json)
                return SchemaValidator(core).validate_json
    except (TypeError, ValueError, SchemaError):
        pass
    return None


def _key_check(check: _Check) -> _Check:
    return lambda key: check(b"{%b:null}" % key)


def _fraction_check(check: _Check) -> _Check:
    def check_fraction(number: bytes) -> None:
        if number.lstrip(b"-").isdigit():
            raise ValueError("not a fraction")
        check(number)

    return check_fraction


def limit_numbers(schema: Any) -> Any:
    """Limit a schema's numbers to the range of a double, in place, and return the schema.

    Handlers decode a number as a double, and JSON can contain integers beyond that range.
    """
    if isinstance(schema, dict):
        if schema.get("type") == "number":
            schema.setdefault("minimum", -sys.float_info.max)
            schema.setdefault("maximum", sys.float_info.max)
        for name, part in schema.items():
            if name in _SCHEMA_MAPS and isinstance(part, dict):
                limit_numbers(list(part.values()))
            elif name not in _VALUE_KEYWORDS:
                limit_numbers(part)
    elif isinstance(schema, list):
        for part in schema:
            limit_numbers(part)
    return schema
