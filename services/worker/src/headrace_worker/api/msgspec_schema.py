"""JSON Schemas that accept exactly the values of msgspec types.

msgspec's own schemas omit constraints that JSON Schema cannot express: times without a zone, keys
that are not strings, the length of bytes. The keyword VALUE_KEYWORD adds them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import inspect

from headrace_core.domain.handler import VALUE_KEYWORD

_TYPE_NAMES: Final[dict[type[inspect.Type], str]] = {
    inspect.BytesType: "bytes",
    inspect.ByteArrayType: "bytes",
    inspect.MemoryViewType: "bytes",
    inspect.DateTimeType: "datetime",
    inspect.DateType: "date",
    inspect.DecimalType: "decimal",
    inspect.FloatType: "float",
    inspect.IntType: "int",
    inspect.StrType: "str",
    inspect.TimeDeltaType: "timedelta",
    inspect.TimeType: "time",
    inspect.UUIDType: "uuid",
}
_CONSTRAINT_NAMES: Final = (
    *("tz", "ge", "gt", "le", "lt"),
    *("multiple_of", "min_length", "max_length", "pattern"),
)


def exact_schema(annotation: Any) -> dict[str, Any]:
    """Return the schema of a type.

    Raises:
        TypeError: JSON cannot represent the type.
    """
    schema = msgspec.json.schema(annotation)
    _SchemaVisitor(schema.get("$defs", {})).visit(inspect.type_info(annotation), schema)
    return schema


class _SchemaVisitor:
    """A visitor of a type and its schema, in parallel."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._seen: set[str] = set()

    def visit(self, kind: inspect.Type, schema: dict[str, Any]) -> None:
        kind = _without_metadata(kind)
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name in self._seen:
                return
            self._seen.add(name)
            schema = self._definitions[name]
        match kind:
            case inspect.CollectionType(item_type=item) if "items" in schema:
                self.visit(item, schema["items"])
            case inspect.TupleType(item_types=items):
                for item, part in zip(items, schema.get("prefixItems", ()), strict=True):
                    self.visit(item, part)
            case inspect.DictType(key_type=key, value_type=value):
                _add_key_schema(_without_metadata(key), schema)
                if "additionalProperties" in schema:
                    self.visit(value, schema["additionalProperties"])
            case inspect.UnionType(types=types):
                # Sort the types in the order of msgspec's schemas.
                options = sorted(map(_without_metadata, types), key=_union_order)
                has_integers = any(isinstance(option, inspect.IntType) for option in options)
                for option, part in zip(options, _options(schema), strict=True):
                    self.visit(option, part)
                    if has_integers and isinstance(option, inspect.FloatType):
                        # In such a union, msgspec checks integers against the bounds of the integer
                        # type, so the keyword must apply only to fractions. It is also slow.
                        fraction = {VALUE_KEYWORD: {**_value_constraints(option), "fraction": True}}
                        part["anyOf"] = [{"not": {"type": "integer"}}, fraction]
            case inspect.StructType(array_like=True) | inspect.NamedTupleType():
                parts = schema["prefixItems"][-len(kind.fields) :] if kind.fields else ()
                for field, part in zip(kind.fields, parts, strict=True):
                    self.visit(field.type, part)
            case inspect.StructType() | inspect.TypedDictType() | inspect.DataclassType():
                for field in kind.fields:
                    self.visit(field.type, schema["properties"][field.encode_name])
            case _ if type(kind) in _TYPE_NAMES and not _is_exact(kind):
                schema[VALUE_KEYWORD] = _value_constraints(kind)


def _without_metadata(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _union_order(kind: inspect.Type) -> int:
    if isinstance(kind, inspect.NoneType):
        return 2
    return int(isinstance(kind, inspect.StructType) and not kind.array_like)


def _options(schema: dict[str, Any]) -> list[dict[str, Any]]:
    options: list[dict[str, Any]] = []
    for option in schema["anyOf"]:
        options += _options(option) if "anyOf" in option else [option]
    return options


def _is_exact(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        # JSON Schema checks multipleOf on the decimal text of a number, but msgspec on the float.
        return kind.multiple_of is None
    return isinstance(kind, inspect.StrType)


def _value_constraints(kind: inspect.Type) -> dict[str, Any]:
    value = {"by": "msgspec", "type": _TYPE_NAMES[type(kind)]}
    for name in _CONSTRAINT_NAMES:
        if getattr(kind, name, None) is not None:
            value[name] = getattr(kind, name)
    return value


def _add_key_schema(key: inspect.Type, schema: dict[str, Any]) -> None:
    match key:
        case inspect.StrType() | inspect.AnyType():
            return
        case inspect.EnumType(cls=enum):
            schema["propertyNames"] = {"enum": [str(member.value) for member in enum]}
        case inspect.LiteralType(values=values):
            schema["propertyNames"] = {"enum": [str(value) for value in values]}
        case _ if type(key) in _TYPE_NAMES:
            schema["propertyNames"] = {VALUE_KEYWORD: {**_value_constraints(key), "key": True}}
