"""Payloads and results between JSON and the types of a handler: msgspec's, or pydantic's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec

from headrace_core.domain.job import JsonText

# What most handlers return.
_PLAIN = frozenset({dict, list, str, int, float, bool, type(None)})


class PayloadMismatch(Exception):
    """The payload does not fit the handler's type."""


class Decoder:
    """Makes payloads a handler's first argument.

    Args:
        annotation: the argument's type.
    """

    def __init__(self, annotation: Any) -> None:
        self._decode: Callable[[JsonText], Any] = (
            annotation.model_validate_json
            if _is_model(annotation)
            else msgspec.json.Decoder(annotation).decode
        )

    def __call__(self, payload: JsonText) -> Any:
        """The payload as its type.

        Raises:
            PayloadMismatch: it does not fit.
        """
        try:
            return self._decode(payload)
        # pydantic's ValidationError is a ValueError, as msgspec's errors are.
        except (ValueError, RecursionError) as error:
            raise PayloadMismatch(str(error)) from error


def encode(result: Any) -> JsonText:
    """What a handler returned, as JSON text.

    Raises:
        TypeError, ValueError: JSON cannot say it.
    """
    if type(result) not in _PLAIN and _is_model(type(result)):
        text: JsonText = result.model_dump_json()
        return text
    return msgspec.json.encode(result).decode()


def schema(annotation: Any) -> JsonText:
    """The JSON Schema of a type; `{}` for anything.

    Raises:
        TypeError: JSON has no form for it.
    """
    if annotation is Any:
        return "{}"
    found = annotation.model_json_schema() if _is_model(annotation) else _schema(annotation)
    return msgspec.json.encode(found).decode()


def _schema(annotation: Any) -> dict[str, Any]:
    try:
        return msgspec.json.schema(annotation)
    except TypeError as error:
        raise TypeError(
            f"JSON has no form for {annotation!r}; use a msgspec Struct, a pydantic model, or "
            "types such as int, str, list and dict"
        ) from error


def _is_model(annotation: Any) -> bool:
    # Where there is a pydantic model, pydantic has been imported; where there is none, its import
    # would only make the start of a handler's process slower.
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None
        and isinstance(annotation, type)
        and issubclass(annotation, pydantic.BaseModel)
    )
