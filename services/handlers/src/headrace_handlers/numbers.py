"""Sums of numbers, as an example of CPU-bound work in a separate process.

Sums of integers are exact at any size. If a number has a fraction, the result is a double.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

from msgspec import Meta, Struct

from headrace_worker import InvalidPayload, SyncContext, handler

MAX_NUMBERS = 100_000
MAX_STEPS = 10**10

# Numbers between two cancellation checks, each with a progress report. A chunk of a list takes
# about 10 ms, a chunk of a range about 50 ms.
_LIST_CHUNK = 50_000
_RANGE_CHUNK = 2_000_000

# Within these limits, every cube is a finite double, and other languages can read every integer.
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Number = Integer | Annotated[float, Meta(ge=-1e100, le=1e100)]


class Numbers(Struct, frozen=True, forbid_unknown_fields=True):
    """The input numbers."""

    data: Annotated[
        list[Number],
        Meta(
            description="The numbers: 64-bit integers, or doubles from -1e100 to 1e100.",
            max_length=MAX_NUMBERS,
            examples=[[1, 2, 3]],
        ),
    ]


class Sum(Struct, frozen=True):
    """A sum."""

    result: Annotated[
        int | float,
        Meta(description="Exact for integers; can exceed 64 bits."),
    ]


class Range(Struct, frozen=True, forbid_unknown_fields=True):
    """The integers `start`, `start + step`, … up to and including `end`."""

    start: Annotated[Integer, Meta(description="The first number.")]
    end: Annotated[Integer, Meta(description="The last number, included if a step reaches it.")]
    step: Annotated[
        Integer,
        Meta(description="Difference between two numbers; negative to count down; must not be 0."),
    ] = 1

    def __post_init__(self) -> None:
        if self.step == 0:
            raise InvalidPayload("step must not be 0")
        if self.count > MAX_STEPS:
            raise InvalidPayload(
                f"the range has {self.count:,} numbers; the limit is {MAX_STEPS:,}"
            )

    @property
    def count(self) -> int:
        """The number of integers."""
        return max(0, (self.end - self.start) // self.step + 1)


class RangeSum(Struct, frozen=True):
    """The sum of a range."""

    result: Annotated[int, Meta(description="The exact sum, which can exceed 64 bits.")]
    count: Annotated[int, Meta(description="Number of added integers.", ge=0)]


@handler("square_sum", isolation="process")
def square_sum(numbers: Numbers, ctx: SyncContext) -> Sum:
    """Return the sum of the squares of the numbers."""
    return Sum(result=_sum_of(numbers.data, lambda x: x * x, ctx))


@handler("cube_sum", isolation="process")
def cube_sum(numbers: Numbers, ctx: SyncContext) -> Sum:
    """Return the sum of the cubes of the numbers."""
    return Sum(result=_sum_of(numbers.data, lambda x: x * x * x, ctx))


@handler("sum_range", isolation="process", timeout=timedelta(hours=1))
def sum_range(numbers: Range, ctx: SyncContext) -> RangeSum:
    """Add the integers from start to end, inclusive, one by one.

    A formula would take a microsecond. This handler demonstrates a long computation with
    progress, cancellation and timeout.
    """
    total = 0
    for done in range(0, numbers.count, _RANGE_CHUNK):
        ctx.raise_if_cancelled()
        ctx.progress(done / numbers.count, "adding", done=done, count=numbers.count)
        first = numbers.start + done * numbers.step
        size = min(_RANGE_CHUNK, numbers.count - done)
        total += sum(range(first, first + size * numbers.step, numbers.step))
    ctx.progress(1, "added", done=numbers.count, count=numbers.count)
    return RangeSum(result=total, count=numbers.count)


def _sum_of(
    data: list[int | float], term: Callable[[int | float], int | float], ctx: SyncContext
) -> int | float:
    whole = 0
    fractional: list[float] = []
    for done in range(0, len(data), _LIST_CHUNK):
        ctx.raise_if_cancelled()
        ctx.progress(done / len(data), "adding", done=done, count=len(data))
        for number in data[done : done + _LIST_CHUNK]:
            value = term(number)
            if isinstance(value, int):
                whole += value
            else:
                fractional.append(value)
    ctx.progress(1, "added", done=len(data), count=len(data))
    # fsum is exact for any order of the numbers.
    return math.fsum([*fractional, whole]) if fractional else whole
