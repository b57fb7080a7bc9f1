"""Single values of payloads, checked by the library that the handler decodes them with.

A schema comes from a worker, so that only types of this module are made, by names and numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from pydantic_core import SchemaError, SchemaValidator

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
# The only arguments that a worker passes to the libraries. Another one would make pydantic use
# Python's regular expressions, which can take exponential time.
_CONSTRAINTS: Final = frozenset(
    {"tz", "ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern"}
    | {"max_digits", "decimal_places", "allow_inf_nan", "tz_constraint", "version", "strict"}
    | {"now_op", "now_utc_offset", "strip_whitespace", "to_lower", "to_upper"}
)
# The types of JSON that are checked, where those are not texts.
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "decimal": (str, int, float),
    "float": (int, float),
    "int": (int, float),
}

# Keywords with schemas by names of the author's choice, and with values instead of schemas.
_BY_NAME: Final = frozenset({"$defs", "definitions", "patternProperties", "properties"})
_DATA: Final = frozenset({"const", "default", "enum", "examples"})

_Check = Callable[[bytes], Any]


class ValueKeyword:
    """The VALUE_KEYWORD, as jsonschema-rs calls it.

    Args:
        parent: the schema that the keyword is in.
        value: the library (`by`), the `type`, its constraints, and whether it is the `key` of an
            object or a `fraction`, which no integer is. What is unknown, of a newer worker, is not
            checked.
        path: the place of the keyword.
    """

    def __init__(self, parent: Mapping[str, Any], value: Any, path: Any) -> None:
        del parent, path
        value = value if isinstance(value, dict) else {}
        self._type = str(value.get("type"))
        self._kinds = _kinds(value)
        self._check = _check(value)

    def validate(self, instance: Any) -> None:
        """Checks a value; another JSON type than the expected one is the matter of `type`.

        Raises:
            ValueError: the handler would not decode it.
        """
        if (
            self._check is None
            or not isinstance(instance, self._kinds)
            or isinstance(instance, bool)
        ):
            return
        if self._type == "int" and isinstance(instance, float) and instance.is_integer():
            # As the worker reads it.
            instance = int(instance)
        try:
            self._check(msgspec.json.encode(instance))
        except ValueError:
            # The library's message could quote the value.
            raise ValueError(f"the value is not a valid {self._type}") from None


def _kinds(value: dict[str, Any]) -> tuple[type, ...]:
    """The types of JSON to check a value of."""
    if value.get("key"):
        return (str,)
    if value.get("fraction") and "multiple_of" not in value:
        # JSON Schema is exact for the others, of which there may be many.
        return (int,)
    return _KINDS.get(str(value.get("type")), (str,))


def _check(value: dict[str, Any]) -> _Check | None:
    constraints = {name: item for name, item in value.items() if name in _CONSTRAINTS}
    try:
        match value:
            case {"by": "msgspec", "type": str(name)} if name in _MSGSPEC:
                kind: Any = Annotated[_MSGSPEC[name], msgspec.Meta(**constraints)]
                if value.get("key"):
                    return _as_key(msgspec.json.Decoder(dict[kind, None]).decode)
                decode = msgspec.json.Decoder(kind).decode
                return _as_fraction(decode) if value.get("fraction") else decode
            case {"by": "pydantic", "type": str(name)} if name in _PYDANTIC:
                core: Any = {"type": name, **constraints}
                if value.get("key"):
                    core = {"type": "dict", "keys_schema": core}
                    return _as_key(SchemaValidator(core).validate_json)
                return SchemaValidator(core).validate_json
    except (TypeError, ValueError, SchemaError):
        pass
    return None


def _as_key(check: _Check) -> _Check:
    return lambda key: check(b"{%b:null}" % key)


def _as_fraction(check: _Check) -> _Check:
    def check_fraction(number: bytes) -> None:
        if number.lstrip(b"-").isdigit():
            raise ValueError("not a fraction")
        check(number)

    return check_fraction


def bounded(schema: Any) -> Any:
    """A schema whose numbers are bounded to those that a double can hold, in place.

    Handlers read a number as a double, and JSON can hold integers beyond it.
    """
    if isinstance(schema, dict):
        if schema.get("type") == "number":
            schema.setdefault("minimum", -sys.float_info.max)
            schema.setdefault("maximum", sys.float_info.max)
        for name, part in schema.items():
            if name in _BY_NAME and isinstance(part, dict):
                bounded(list(part.values()))
            elif name not in _DATA:
                bounded(part)
    elif isinstance(schema, list):
        for part in schema:
            bounded(part)
    return schema
