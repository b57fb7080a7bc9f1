"""The description of a handler exception shows its origin but no payload."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pydantic_core
import pytest

from headrace_core.domain.job import JobError
from headrace_worker.api.failure import attach_stack_trace, describe, error_fields, stack_trace
from headrace_worker.api.payload import Decoder, PayloadMismatch
from headrace_worker.runners.loop import as_exception

SECRET = "4111-1111"


class Color(Enum):
    RED = "red"


class Order(pydantic.BaseModel):
    quantity: int = 0
    size: Literal["s", "m"] = "s"
    note: Annotated[str, pydantic.Field(max_length=3)] = ""
    custom: str = ""
    own: str = ""

    @pydantic.field_validator("custom")
    @classmethod
    def _check(cls, value: str) -> str:
        if value:
            raise ValueError(f"not a card: {value}")
        return value

    @pydantic.field_validator("own")
    @classmethod
    def _check_own(cls, value: str) -> str:
        if value:
            raise pydantic_core.PydanticCustomError("card", "refused {value}", {"value": value})
        return value


class Item(msgspec.Struct):
    quantity: int = 0
    color: Color = Color.RED
    price: Annotated[int, msgspec.Meta(ge=0)] = 0
    note: str = ""

    def __post_init__(self) -> None:
        if self.note:
            raise ValueError(f"no note like {self.note}")


def exception_from(function: Callable[..., object], *arguments: object) -> BaseException:
    try:
        function(*arguments)
    except BaseException as error:  # noqa: BLE001 - SystemExit too
        return error
    raise AssertionError(f"{function} did not raise")


@pytest.mark.parametrize(
    ("model", "payload", "message"),
    [
        (Order, {"quantity": SECRET}, r"quantity: Input should be a valid integer, .*"),
        (Order, {"size": SECRET}, "size: Input should be 's' or 'm'"),
        (Order, {"note": SECRET}, "note: String should have at most 3 characters"),
        (Order, {"custom": SECRET}, "custom: value_error"),
        (Order, {"own": SECRET}, "own: card"),
        (Order, {"size": SECRET, "own": SECRET}, "size: Input .*; own: card"),
        (Item, {"quantity": SECRET}, r"Expected `int`, got `str` - at `\$.quantity`"),
        (Item, {"color": SECRET}, r"Invalid enum value - at `\$.color`"),
        (Item, {"price": -5}, r"Expected `int` >= 0 - at `\$.price`"),
        (Item, {"note": SECRET}, "ValueError"),
        (list[Item], [{"note": SECRET}], r"ValueError - at `\$\[0\]`"),
    ],
)
def test_validation_error_is_cut_to_path_and_rule(model: Any, payload: Any, message: str) -> None:
    text = msgspec.json.encode(payload).decode()
    mismatch = exception_from(Decoder(model), text)
    assert isinstance(mismatch, PayloadMismatch)
    assert re.fullmatch(message, str(mismatch))
    # A handler that validates raises the library's error or quotes it.
    error = mismatch.__cause__
    assert error is not None
    assert re.fullmatch(message, describe(error))
    quoting = exception_from(_quote, error)
    assert isinstance(quoting, RuntimeError)
    if not isinstance(error.__cause__, ValueError):
        assert SECRET not in stack_trace(quoting)
        assert SECRET not in describe(quoting)


def _quote(error: BaseException) -> None:
    raise RuntimeError(f"cannot handle it: {error}") from error


@pytest.mark.parametrize(
    ("text", "described"),
    [
        (f"a [type=x, input_value='{SECRET}', input_type=str] b", "[x] b"),
        (
            f"a\n  Value error, {SECRET}\n{SECRET} [type=x, input_value=1, input_type=int]",
            "a\n  [x]",
        ),
        (f"a\nb [type=x, input_value=A(\n{SECRET}), input_type=A]\nc", "a\n[x]\nc"),
        (f"a\nb [type=x, input_value='{SECRET}", "a\n[x]"),
        (
            f"[type=x, input_value='[type=y, input_value={SECRET}, input_type=y]', input_type=x]",
            "[x]",
        ),
    ],
)
def test_quoted_value_is_cut_from_a_text(text: str, described: str) -> None:
    assert describe(RuntimeError(text)) == described


def test_text_with_many_quotes_is_cut_in_linear_time() -> None:
    # A single regular expression would take cubic time and block the loop for half a minute.
    for text in ("[type=x, input_value=" * 400, "Value error, " * 300 + "[type=x, input_value="):
        assert describe(RuntimeError(text)) == "[x]"


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise SystemExit(2)


@pytest.mark.parametrize(
    "error", [UnprintableError(), KeyError(), ExceptionGroup("none", [UnprintableError()])]
)
def test_exception_without_a_message_is_still_shown(error: Exception) -> None:
    caught = exception_from(_raise, error)
    assert isinstance(describe(caught), str)
    assert type(error).__name__ in stack_trace(caught)


def _raise(error: BaseException) -> None:
    raise error


def fail_with_cause(payload: str) -> None:
    local = f"a variable with {payload}"
    try:
        int(local[:1])
    except ValueError as error:
        raise RuntimeError("the order is broken") from error


def test_stack_trace_has_causes_and_source_but_no_variables() -> None:
    trace = stack_trace(exception_from(fail_with_cause, SECRET))
    cause, link, error = trace.partition("direct cause of the following exception")
    assert link
    assert "int(local[:1])" in cause
    assert 'raise RuntimeError("the order is broken") from error' in error
    assert error.endswith("RuntimeError: the order is broken")
    assert f'File "{__file__}", line ' in error
    assert "in fail_with_cause" in error
    assert SECRET not in trace


def test_stack_trace_with_a_context_shows_it_unless_suppressed() -> None:
    def fail(suppress: bool) -> None:
        try:
            raise KeyError("first")
        except KeyError:
            if suppress:
                raise ValueError("second") from None
            raise ValueError("second")  # noqa: B904 - the context is under test

    assert "During handling of the above" in stack_trace(exception_from(fail, False))
    assert "first" not in stack_trace(exception_from(fail, True))


def test_stack_trace_of_a_group_has_its_members_and_their_causes() -> None:
    members = [
        exception_from(fail_with_cause, SECRET),
        exception_from(_raise, OSError("disk")),
        KeyError("k"),
    ]
    group = BaseExceptionGroup("three", [*members, ExceptionGroup("in", [ValueError("deep")])])
    trace = stack_trace(exception_from(_raise, group))
    for part in ("three", "---- 1 of 4 ----", "int(local", "RuntimeError", "disk", "deep"):
        assert part in trace


def _recurse(depth: int) -> None:
    if depth == 0:
        raise ValueError("deep")
    _recurse(depth - 1)


def test_stack_trace_of_a_deep_recursion_keeps_both_ends() -> None:
    trace = stack_trace(exception_from(_recurse, 500))
    assert trace.count("in _recurse") <= 30
    assert "frames left out" in trace
    assert "raise ValueError" in trace


def test_stack_trace_with_many_causes_keeps_the_newest() -> None:
    error: BaseException = exception_from(_recurse, 100)
    for number in range(20):
        try:
            raise ValueError(f"number {number} {'x' * 1000}") from error
        except ValueError as caught:
            error = caught
    trace = stack_trace(error)
    assert len(trace.encode()) <= 16 * 1024
    assert "number 19" in trace.splitlines()[-1]


def test_stack_trace_with_wide_text_fits_the_limit() -> None:
    group = ExceptionGroup("g", [exception_from(_raise, ValueError("\U0001f600" * 900))] * 50)
    trace = stack_trace(exception_from(_raise, group))
    assert 0 < len(trace.encode()) <= 16 * 1024


def test_stack_trace_without_frames_is_empty() -> None:
    assert stack_trace(ValueError("never raised")) == ""


class AnyAttributeError(Exception):
    def __getattr__(self, name: str) -> Any:
        return self


def test_stack_trace_of_an_error_with_any_attribute_is_text() -> None:
    assert "AnyAttributeError" in stack_trace(exception_from(_raise, AnyAttributeError()))


def test_error_type_that_is_not_text_is_replaced() -> None:
    kind: Any = 5
    assert JobError(type=kind, message="x", retryable=False).type == "Error"


def test_stack_trace_of_a_remote_error_is_preserved() -> None:
    remote = as_exception(exception_from(sys.exit, 2))
    assert "SystemExit: 2" in stack_trace(remote)
    error = ValueError("x")
    attach_stack_trace(error, "there")
    assert stack_trace(error) == "there"


def test_error_fields_have_the_first_line_of_the_message() -> None:
    error = JobError(type="E", message="what\nDETAIL: a row", retryable=False)
    assert error_fields(error) == {"error_type": "E", "error": "what"}
