"""Conversion of payloads and results between JSON and Python types."""

from __future__ import annotations

import math
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec

from headrace_core.domain.job import JsonText
from headrace_worker.api import msgspec_schema
from headrace_worker.api.errors import Fail
from headrace_worker.api.failure import describe

# The types that handlers usually return.
_PLAIN_TYPES = frozenset({dict, list, str, int, float, bool, type(None)})


class PayloadMismatch(Exception):
    """The payload does not match the handler's type."""


class Decoder:
    """A decoder from payloads to the type of a handler's first argument.

    Args:
        annotation: the type.
    """

    def __init__(self, annotation: Any) -> None:
        self._decode: Callable[[JsonText], Any]
        if _is_model(annotation):
            self._decode = annotation.model_validate_json
        elif _contains_model(annotation):
            self._decode = _adapter(annotation).validate_json
        else:
            self._decode = msgspec.json.Decoder(annotation).decode

    def __call__(self, payload: JsonText) -> Any:
        """Decode a payload.

        Texts that JSON Schema considers equal decode to the same value: 1.0 is an integer, and the
        last of several equal keys is used.

        Raises:
            PayloadMismatch: the payload does not match the type.
        """
        try:
            return self._decode(payload)
        # The validation errors of pydantic and msgspec are ValueErrors.
        except (ValueError, RecursionError) as error:
            for text in _equal_texts(payload):
                with suppress(ValueError, RecursionError):
                    return self._decode(text)
            raise PayloadMismatch(describe(error)) from error


def _equal_texts(payload: JsonText) -> Iterator[JsonText]:
    """Yield texts with the same content: each key once, integral numbers as integers."""
    with suppress(ValueError, RecursionError):
        content = msgspec.json.decode(payload)
        # Yield the texts that change the fewest numbers first: a type may accept small integers and
        # larger fractions, and an integer cannot represent negative zero.
        for limit in _INTEGER_LIMITS:
            yield msgspec.json.encode(_with_integers(content, limit)).decode()


# For each text, the largest absolute value that becomes an integer. -1 changes no number; 0 changes
# all numbers, including negative zero.
_INTEGER_LIMITS: Final = (-1, 2**63, math.inf, 0)


def _with_integers(content: Any, limit: float) -> Any:
    if isinstance(content, float) and content.is_integer():
        if content == 0 and math.copysign(1, content) < 0:
            return content if limit else 0
        return int(content) if abs(content) <= (limit or math.inf) else content
    if isinstance(content, dict):
        return {key: _with_integers(item, limit) for key, item in content.items()}
    if isinstance(content, list):
        return [_with_integers(item, limit) for item in content]
    return content


def encode(value: Any) -> JsonText:
    """Return the JSON text of a result or a piece of output.

    Raises:
        Fail: JSON cannot represent the value. A retry would not change that.
    """
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise Fail(
            f"JSON cannot represent the handler's value: {describe(error)}", type="NotJson"
        ) from error


def _encode(value: Any) -> JsonText:
    text: JsonText
    if type(value) not in _PLAIN_TYPES and _is_model(type(value)):
        text = value.model_dump_json()
        # A model may be configured to write NaN as a string, or as a constant that is not valid
        # JSON.
        if value.model_config.get("ser_json_inf_nan") == "strings":
            return text
        may_be_lossy = any(word in text for word in ("null", "NaN", "Infinity"))
        content = value.model_dump() if may_be_lossy else None
    else:
        text = msgspec.json.encode(value, enc_hook=_dump_model).decode()
        content = msgspec.to_builtins(value, enc_hook=_dump_model) if "null" in text else None
    # The encoders write null for NaN and Infinity, so a text without null contains neither.
    if content is not None and not _is_finite(content):
        raise ValueError("it contains NaN or Infinity")
    return text


def _is_finite(content: Any) -> bool:
    if isinstance(content, float):
        return math.isfinite(content)
    if isinstance(content, dict):
        return all(_is_finite(item) for item in content.values())
    if isinstance(content, list | tuple | set | frozenset):
        return all(_is_finite(item) for item in content)
    return True


def schema(annotation: Any) -> JsonText:
    """Return the JSON Schema of a type; `{}` for Any.

    Raises:
        TypeError: JSON cannot represent the type.
    """
    if (write := _pydantic_schema(annotation)) is not None:
        return _to_json(write())
    return _write_schema(annotation, msgspec.json.schema)


def payload_schema(annotation: Any) -> JsonText:
    """Return the JSON Schema of a payload type, which accepts only payloads that decode.

    The schema omits the handler's own checks, such as `__post_init__` and pydantic validators.

    Raises:
        TypeError: JSON cannot represent the type.
    """
    if (write := _pydantic_schema(annotation)) is not None:
        # Only pydantic payloads need pydantic's generator.
        from headrace_worker.api import pydantic_schema  # noqa: PLC0415

        return _to_json(pydantic_schema.exact_schema(write))
    return _write_schema(annotation, msgspec_schema.exact_schema)


def _write_schema(annotation: Any, write: Callable[[Any], dict[str, Any]]) -> JsonText:
    if annotation is Any:
        return "{}"
    try:
        return _to_json(write(annotation))
    except TypeError as error:
        raise TypeError(
            f"JSON cannot represent {annotation!r}; use a msgspec Struct, a pydantic model, or "
            "types such as int, str, list and dict"
        ) from error


def _to_json(found: dict[str, Any]) -> JsonText:
    return msgspec.json.encode(found).decode()


def _is_model(annotation: Any) -> bool:
    # A module that defines a pydantic model has already imported pydantic. Otherwise, importing it
    # would only slow the start of handler processes.
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None
        and isinstance(annotation, type)
        and issubclass(annotation, pydantic.BaseModel)
    )


def _contains_model(annotation: Any) -> bool:
    """Return whether the type contains a pydantic model, which msgspec cannot decode."""
    parts = typing.get_args(annotation)
    return any(_is_model(part) or _contains_model(part) for part in parts)


def _pydantic_schema(annotation: Any) -> Callable[..., dict[str, Any]] | None:
    """Return the schema writer of a type that contains a model; None for other types."""
    if _is_model(annotation):
        writer: Callable[..., dict[str, Any]] = annotation.model_json_schema
    elif _contains_model(annotation):
        writer = _adapter(annotation).json_schema
    else:
        return None
    return writer


def _adapter(annotation: Any) -> Any:
    return sys.modules["pydantic"].TypeAdapter(annotation)


def _dump_model(value: Any) -> Any:
    """Return the content of a model, which msgspec encodes instead of the model.

    Raises:
        TypeError: the value is not a model.
    """
    if not _is_model(type(value)):
        raise TypeError(f"it contains an object of type {type(value).__qualname__}")
    return value.model_dump(mode="json")
