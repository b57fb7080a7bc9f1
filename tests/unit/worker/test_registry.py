"""What can be a handler, and what is said of what can't."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pydantic
import pytest

from headrace_worker import Context, RetryPolicy, SyncContext, handler
from headrace_worker.payload import Decoder, PayloadMismatch, encode, schema
from headrace_worker.registry import registry


class Struct(msgspec.Struct, forbid_unknown_fields=True):
    """A payload of msgspec's."""

    count: int


class Model(pydantic.BaseModel):
    """A payload of pydantic's."""

    count: int


@pytest.fixture(autouse=True)
def _registry_as_before() -> Iterator[None]:
    before = dict(registry._handlers)
    yield
    registry._handlers.clear()
    registry._handlers.update(before)


def test_the_annotations_give_the_mode_the_schemas_and_the_description() -> None:
    @handler("r.all", queue="q", timeout=7, retry=RetryPolicy(max_attempts=9))
    async def all_of_it(payload: Struct, ctx: Context) -> list[int]:
        """Counts.

        And much more.
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
def test_a_payload_is_decoded_as_its_type_says(annotation: Any) -> None:
    assert Decoder(annotation)('{"count": 3}').count == 3
    with pytest.raises(PayloadMismatch, match="count"):
        Decoder(annotation)('{"count": "three"}')
    assert json.loads(schema(annotation))
    assert json.loads(encode(Decoder(annotation)('{"count": 3}'))) == {"count": 3}


def test_a_handler_runs_in_the_loop_or_in_a_thread_or_in_a_process() -> None:
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


def test_a_handler_takes_one_or_two_arguments() -> None:
    with pytest.raises(TypeError, match="takes its payload"):

        @handler("r.no")
        def no() -> None: ...


def test_the_context_fits_the_mode() -> None:
    with pytest.raises(TypeError, match="SyncContext"):

        @handler("r.no")
        def no(payload: Any, ctx: Context) -> None: ...


def test_a_type_without_a_form_in_json_is_named() -> None:
    with pytest.raises(TypeError, match="JSON has no form for"):

        @handler("r.no")
        def no(payload: object) -> None: ...


@pytest.mark.parametrize("name", ["", "No", "a b", "ü", "x" * 101, "-x"])
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        handler(name)


@pytest.mark.parametrize(
    "timeout",
    [0, -1, timedelta(), timedelta(days=3651), timedelta.max, 1e30, float("inf"), float("nan")],
)
def test_a_timeout_out_of_range_is_refused(timeout: float | timedelta) -> None:
    with pytest.raises(ValueError, match="timeout"):
        handler("r.no", timeout=timeout)


def test_memory_limit_without_process_is_refused() -> None:
    with pytest.raises(ValueError, match=r'needs isolation="process"'):
        handler("r.memory", memory_limit=2**20)


def test_two_functions_cannot_have_the_same_type() -> None:
    @handler("r.twice")
    def first(payload: Any) -> None: ...

    with pytest.raises(ValueError, match=r"two handlers for the type 'r\.twice'"):

        @handler("r.twice")
        def second(payload: Any) -> None: ...
