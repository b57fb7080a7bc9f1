"""Payloads and results between JSON and the types of a handler: msgspec's, or pydantic's."""

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
        self._decode: Callable[[JsonText], Any]
        if _is_model(annotation):
            self._decode = annotation.model_validate_json
        elif _holds_model(annotation):
            self._decode = _adapter(annotation).validate_json
        else:
            self._decode = msgspec.json.Decoder(annotation).decode

    def __call__(self, payload: JsonText) -> Any:
        """The payload as its type.

        Texts that JSON Schema takes for the same content are decoded alike: 1.0 is an integer, and
        of equal keys the last one counts.

        Raises:
            PayloadMismatch: it does not fit.
        """
        try:
            return self._decode(payload)
        # pydantic's ValidationError is a ValueError, as msgspec's errors are.
        except (ValueError, RecursionError) as error:
            for text in _other_forms(payload):
                with suppress(ValueError, RecursionError):
                    return self._decode(text)
            raise PayloadMismatch(describe(error)) from error


def _other_forms(payload: JsonText) -> Iterator[JsonText]:
    """Texts with the content of `payload`: each key once, integral numbers as integers."""
    with suppress(ValueError, RecursionError):
        content = msgspec.json.decode(payload)
        # Numbers stay as they are for as long as possible: a number may also be for a type that
        # takes small integers and larger fractions, and an integer has no negative zero.
        for limit in _INTEGRAL:
            yield msgspec.json.encode(_integral(content, limit)).decode()


# The largest absolute values that become integers, step by step; 0 for negative zero as well.
_INTEGRAL: Final = (-1, 2**63, math.inf, 0)


def _integral(content: Any, limit: float) -> Any:
    if isinstance(content, float) and content.is_integer():
        if content == 0 and math.copysign(1, content) < 0:
            return content if limit else 0
        return int(content) if abs(content) <= (limit or math.inf) else content
    if isinstance(content, dict):
        return {key: _integral(item, limit) for key, item in content.items()}
    if isinstance(content, list):
        return [_integral(item, limit) for item in content]
    return content


def encode(value: Any) -> JsonText:
    """What a handler returned or emits, as JSON text.

    Raises:
        Fail: JSON cannot say it, and could not the next time either.
    """
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise Fail(
            f"JSON cannot say what the handler did: {describe(error)}", type="NotJson"
        ) from error


def _encode(value: Any) -> JsonText:
    text: JsonText
    if type(value) not in _PLAIN and _is_model(type(value)):
        text = value.model_dump_json()
        # A model may ask for NaN as text, or for what is no JSON any more.
        if value.model_config.get("ser_json_inf_nan") == "strings":
            return text
        strange = any(word in text for word in ("null", "NaN", "Infinity"))
        content = value.model_dump() if strange else None
    else:
        text = msgspec.json.encode(value, enc_hook=_dump).decode()
        content = msgspec.to_builtins(value, enc_hook=_dump) if "null" in text else None
    # The encoders write null for NaN and Infinity, silently; what has no null had none of them.
    if content is not None and not _is_finite(content):
        raise ValueError("it has no NaN and no Infinity")
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
    """The JSON Schema of a type; `{}` for anything.

    Raises:
        TypeError: JSON has no form for it.
    """
    if (write := _pydantic_schema(annotation)) is not None:
        return _text(write())
    return _written(annotation, msgspec.json.schema)


def payload_schema(annotation: Any) -> JsonText:
    """The JSON Schema of a payload's type, so exact that the type decodes what the schema takes.

    The handler's own checks, such as pydantic's validators and `__post_init__`, are not in it.

    Raises:
        TypeError: JSON has no form for it.
    """
    if (write := _pydantic_schema(annotation)) is not None:
        # pydantic's generator is not imported for others.
        from headrace_worker.api import pydantic_schema  # noqa: PLC0415

        return _text(pydantic_schema.exact_schema(write))
    return _written(annotation, msgspec_schema.exact_schema)


def _written(annotation: Any, write: Callable[[Any], dict[str, Any]]) -> JsonText:
    if annotation is Any:
        return "{}"
    try:
        return _text(write(annotation))
    except TypeError as error:
        raise TypeError(
            f"JSON has no form for {annotation!r}; use a msgspec Struct, a pydantic model, or "
            "types such as int, str, list and dict"
        ) from error


def _text(found: dict[str, Any]) -> JsonText:
    return msgspec.json.encode(found).decode()


def _is_model(annotation: Any) -> bool:
    # Where there is a pydantic model, pydantic has been imported; where there is none, its import
    # would only make the start of a handler's process slower.
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None
        and isinstance(annotation, type)
        and issubclass(annotation, pydantic.BaseModel)
    )


def _holds_model(annotation: Any) -> bool:
    """Whether a model is in it, as in `list[Model]`: msgspec does not know those."""
    parts = typing.get_args(annotation)
    return any(_is_model(part) or _holds_model(part) for part in parts)


def _pydantic_schema(annotation: Any) -> Callable[..., dict[str, Any]] | None:
    """Writes the schema of a model, or of what holds one; None when pydantic has no part in it."""
    if _is_model(annotation):
        writer: Callable[..., dict[str, Any]] = annotation.model_json_schema
    elif _holds_model(annotation):
        writer = _adapter(annotation).json_schema
    else:
        return None
    return writer


def _adapter(annotation: Any) -> Any:
    return sys.modules["pydantic"].TypeAdapter(annotation)


def _dump(value: Any) -> Any:
    """The content that msgspec encodes in the place of a model.

    Raises:
        TypeError: it is not a model.
    """
    if not _is_model(type(value)):
        raise TypeError(f"objects of type {type(value).__qualname__} have no form in JSON")
    return value.model_dump(mode="json")
