"""Sums are exact, report progress and stop when they are cancelled."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_gateway.api.documents import parse_json
from headrace_gateway.api.payload_schema import KnownHandler
from headrace_handlers.numbers import (
    MAX_STEPS,
    Numbers,
    Range,
    cube_sum,
    square_sum,
    sum_range,
)
from headrace_worker import Stopped
from headrace_worker.api.payload import PayloadMismatch, encode
from headrace_worker.api.registry import registry
from support.recording import Recording, sync_context

integers = st.integers(min_value=-(2**63), max_value=2**63 - 1)
doubles = st.floats(min_value=-1e100, max_value=1e100)


@given(st.lists(integers, max_size=50))
def test_sums_of_integers_are_exact(data: list[int]) -> None:
    assert square_sum(Numbers(data=data), sync_context()).result == sum(x**2 for x in data)
    assert cube_sum(Numbers(data=data), sync_context()).result == sum(x**3 for x in data)


@given(st.lists(doubles | integers, max_size=50))
def test_sums_with_fractions_are_finite_and_close(data: list[float]) -> None:
    result = square_sum(Numbers(data=data), sync_context()).result
    assert math.isfinite(result)
    assert math.isclose(result, math.fsum(float(x) * float(x) for x in data), rel_tol=1e-12)
    assert math.isfinite(cube_sum(Numbers(data=data), sync_context()).result)


@given(
    start=st.integers(-1000, 1000),
    end=st.integers(-1000, 1000),
    step=st.integers(-50, 50).filter(bool),
)
def test_range_includes_its_end_if_a_step_reaches_it(start: int, end: int, step: int) -> None:
    expected = list(range(start, end + (1 if step > 0 else -1), step))
    result = sum_range(Range(start=start, end=end, step=step), sync_context())
    assert (result.result, result.count) == (sum(expected), len(expected))


def test_long_range_is_added_in_chunks_with_progress() -> None:
    recording = Recording()
    result = sum_range(Range(start=1, end=5_000_000), sync_context(recording))
    assert result.result == 5_000_000 * 5_000_001 // 2
    assert recording.fractions == [0.0, 0.4, 0.8, 1.0]
    assert json.loads(recording.progress_reports[1].counters) == {
        "done": 2_000_000,
        "count": 5_000_000,
    }


def test_long_list_reports_progress() -> None:
    recording = Recording()
    assert square_sum(Numbers(data=[2] * 100_000), sync_context(recording)).result == 400_000
    assert recording.fractions == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("handler", "payload"),
    [
        (square_sum, Numbers(data=[1] * 100_000)),
        (cube_sum, Numbers(data=[1] * 100_000)),
        (sum_range, Range(start=1, end=MAX_STEPS)),
    ],
)
def test_cancelled_sum_stops_at_the_next_chunk(handler, payload) -> None:
    ctx = sync_context()

    def cancel(_: object) -> None:
        ctx.cancel_event.set()

    ctx._report = cancel
    with pytest.raises(Stopped):
        handler(payload, ctx)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ('{"start": 1, "end": 10, "step": 0}', "step must not be 0"),
        (
            '{"start": 1, "end": 10000000001}',
            "the range has 10,000,000,001 numbers; the limit is 10,000,000,000",
        ),
        (
            f'{{"start": 1, "end": {10**12}}}',
            "the range has 1,000,000,000,000 numbers; the limit is 10,000,000,000",
        ),
        ('{"start": 1}', "missing required field `end`"),
        ('{"start": 1.5, "end": 2}', "Expected `int`"),
        ('{"start": 1, "end": 9223372036854775808}', "Expected `int` <= 9223372036854775807"),
        ('{"start": 1, "end": 2, "by": 1}', "unknown field `by`"),
    ],
)
def test_malformed_range_is_rejected(payload: str, problem: str) -> None:
    registered = registry.get("sum_range")
    assert registered is not None
    with pytest.raises(PayloadMismatch, match=problem):
        registered.decode(payload)


@pytest.mark.parametrize("payload", ['{"data": ["1"]}', '{"data": [true]}', '{"data": [1e101]}'])
def test_value_that_is_not_a_number_is_rejected(payload: str) -> None:
    registered = registry.get("square_sum")
    assert registered is not None
    with pytest.raises(PayloadMismatch):
        registered.decode(payload)


def test_sum_beyond_64_bits_is_exact_in_json() -> None:
    registered = registry.get("cube_sum")
    assert registered is not None
    payload = registered.decode('{"data": [9007199254740993]}')
    result = registered.function(payload, sync_context())
    assert encode(result) == f'{{"result":{9007199254740993**3}}}'


@pytest.mark.parametrize("digits", [20, 310, 4_000, 300_000])
@pytest.mark.parametrize("job_type", ["square_sum", "cube_sum", "sum_range"])
def test_huge_number_is_rejected_at_submit_and_by_the_handler(job_type: str, digits: int) -> None:
    registered = registry.get(job_type)
    assert registered is not None
    number = "9" * digits
    fields = f'"start":0,"end":{number}' if job_type == "sum_range" else f'"data":[{number}]'
    payload = f"{{{fields}}}"
    with pytest.raises(PayloadMismatch):
        registered.decode(payload)
    try:
        content = parse_json(payload.encode(), "payload").content
    except ValueError:
        return
    assert not KnownHandler(job_type, "default", registered.spec.payload_schema).accepts(content)
