"""Functions that can be handlers, and the errors for other candidates."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pydantic
import pytest

from headrace_worker import Context, Fail, RetryPolicy, SyncContext, handler
from headrace_worker.api.payload import Decoder, PayloadMismatch, encode, schema
from headrace_worker.api.registry import registry


class Struct(msgspec.Struct, forbid_unknown_fields=True):
    """A msgspec payload."""

    count: int


class Model(pydantic.BaseModel):
    """A pydantic payload."""

    count: int


@pytest.fixture(autouse=True)
def _restored_registry() -> Iterator[None]:
    before = dict(registry._handlers)
    yield
    registry._handlers.clear()
    registry._handlers.update(before)


def test_annotations_determine_mode_and_schemas() -> None:
    @handler("r.all", queue="q", timeout=7, retry=RetryPolicy(max_attempts=9))
    async def count(payload: Struct, ctx: Context) -> list[int]:
        """Counts.

        The rest of the docstring is not part of the description.
        """
        return [payload.count]

    registered = registry.get("r.all")
    assert registered is not None
    assert (registered.mode, registered.takes_context) == ("async", True)
    spec = registered.spec
    assert (spec.queue, spec.timeout, spec.retry.max_attempts) == ("q", timedelta(seconds=7), 9)
    assert spec.description == "Counts."
    assert json.loads(spec.payload_schema)["$defs"]["Struct"]["required"] == ["count"]
    assert json.loads(spec.result_schema) == {"type": "array", "items": {"type": "integer"}}


@pytest.mark.parametrize("annotation", [Struct, Model])
def test_payload_is_decoded_to_its_type(annotation: Any) -> None:
    assert Decoder(annotation)('{"count": 3}').count == 3
    with pytest.raises(PayloadMismatch, match="count"):
        Decoder(annotation)('{"count": "three"}')
    assert json.loads(schema(annotation))
    assert json.loads(encode(Decoder(annotation)('{"count": 3}'))) == {"count": 3}


def test_function_and_isolation_determine_the_mode() -> None:
    @handler("r.loop")
    async def loop(payload: Any) -> None: ...

    @handler("r.thread")
    def thread(payload: Any) -> None: ...

    @handler("r.process", isolation="process")
    def process(payload: Any, ctx: SyncContext) -> None: ...

    @handler("r.async_process", isolation="process")
    async def async_process(payload: Any, ctx: Context) -> None: ...

    modes = {h.spec.type: h.mode for h in registry if h.spec.type.startswith("r.")}
    assert modes == {
        "r.loop": "async",
        "r.thread": "thread",
        "r.process": "process",
        "r.async_process": "process",
    }


def test_handler_takes_one_or_two_arguments() -> None:
    with pytest.raises(TypeError, match="takes its payload"):

        @handler("r.no")
        def no() -> None: ...


def test_context_type_matches_the_mode() -> None:
    with pytest.raises(TypeError, match="SyncContext"):

        @handler("r.no")
        def no(payload: Any, ctx: Context) -> None: ...


def test_type_that_json_cannot_represent_is_rejected() -> None:
    with pytest.raises(TypeError, match="JSON cannot represent"):

        @handler("r.no")
        def no(payload: object) -> None: ...


@pytest.mark.parametrize("name", ["", "No", "a b", "ü", "x" * 101, "-x"])
def test_malformed_name_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid name"):
        handler(name)


@pytest.mark.parametrize(
    "timeout",
    [0, -1, timedelta(), timedelta(days=3651), timedelta.max, 1e30, float("inf"), float("nan")],
)
def test_timeout_out_of_range_is_rejected(timeout: float | timedelta) -> None:
    with pytest.raises(ValueError, match="timeout"):
        handler("r.no", timeout=timeout)


def test_memory_limit_without_process_is_rejected() -> None:
    with pytest.raises(ValueError, match=r'requires isolation="process"'):
        handler("r.memory", memory_limit=2**20)


def test_second_function_for_a_type_is_rejected() -> None:
    @handler("r.twice")
    def first(payload: Any) -> None: ...

    with pytest.raises(ValueError, match=r"two handlers for the type 'r\.twice'"):

        @handler("r.twice")
        def second(payload: Any) -> None: ...


def test_second_function_with_the_same_name_is_rejected() -> None:
    @handler("r.twice")
    def same(payload: Any) -> None: ...

    with pytest.raises(ValueError, match=r"test_registry\.py:\d+\).*test_registry\.py:\d+\)"):

        @handler("r.twice")
        def same(payload: Any) -> None: ...


def test_reloaded_module_replaces_its_handlers() -> None:
    def load() -> Callable[..., Any]:
        @handler("r.again")
        def again(payload: Any) -> None: ...

        return again

    load()
    second = load()
    registered = registry.get("r.again")
    assert registered is not None
    assert registered.function is second


async def _coroutine(payload: Any) -> None: ...


@functools.wraps(_coroutine)
def _wrapped(*arguments: Any) -> Any:
    return _coroutine(*arguments)


@functools.wraps(functools.partial(_coroutine))
def _wraps_partial(*arguments: Any) -> Any:
    return _coroutine(*arguments)


class _Callable:
    def __call__(self, payload: Any) -> None: ...

    def method(self, payload: Any) -> None: ...


async def _yields(payload: Any) -> AsyncIterator[int]:
    yield 1


def _generates(payload: Any) -> Iterator[int]:
    yield 1


def _keyword_only(payload: Any, *, ctx: SyncContext) -> None: ...


def _variable(payload: Any, *ctx: Any) -> None: ...


def _undefined(payload: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (_wrapped, "write the wrapper as `async def`"),
        (_wraps_partial, "write the wrapper as `async def`"),
        (_Callable(), "an object of type _Callable cannot be a handler; write a `def`"),
        (_Callable, "the class _Callable cannot be a handler"),
        (_Callable.method, r"a method cannot be a handler; write `def method\(payload, ctx"),
        (functools.partial(_coroutine), "a functools.partial cannot be a handler; write a `def`"),
        (_yields, r"cannot yield; emit output with `ctx\.emit"),
        (_generates, "cannot yield"),
        (_keyword_only, r"`ctx: .*` is not positional.*write `def _keyword_only\(payload, ctx"),
        (_variable, r"`\*ctx: .*` is not positional"),
        (_undefined, "'Missing' is not defined; import or define the name"),
        (print, "cannot be a handler"),
    ],
)
def test_unsuitable_candidate_is_rejected_with_its_line(candidate: Any, expected: str) -> None:
    with pytest.raises(TypeError, match=rf"test_registry.*\.py:\d+\): .*{expected}"):
        handler("r.odd")(candidate)
    assert registry.get("r.odd") is None


def test_handler_without_a_type_is_rejected() -> None:
    with pytest.raises(TypeError, match=r'test_registry.*\.py:\d+\): .*write `@handler\("type"\)`'):

        @handler  # type: ignore[arg-type]
        def bare(payload: Any) -> None: ...


def test_bound_method_is_a_handler() -> None:
    handler("r.bound")(_Callable().method)
    registered = registry.get("r.bound")
    assert registered is not None
    assert (registered.mode, registered.takes_context) == ("thread", False)


@pytest.mark.parametrize(
    ("annotation", "payload"),
    [
        (list[Model], [{"count": 1}, {"count": 2}]),
        (dict[str, Model], {"a": {"count": 1}}),
        (Model | None, None),
        (list[tuple[int, Model]], [[1, {"count": 2}]]),
    ],
)
def test_models_in_containers_are_decoded_and_encoded(annotation: Any, payload: Any) -> None:
    decoded = Decoder(annotation)(json.dumps(payload))
    assert json.loads(encode(decoded)) == payload
    assert json.loads(schema(annotation))
    with pytest.raises(PayloadMismatch):
        Decoder(annotation)('{"count": "three"}')


def test_nan_in_a_model_in_a_list_is_not_json() -> None:
    class Share(pydantic.BaseModel):
        part: float

    with pytest.raises(Fail, match="NaN"):
        encode([Share(part=math.nan)])
