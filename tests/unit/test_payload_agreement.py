"""A handler decodes each payload that the gateway accepts, for msgspec and pydantic types."""

from __future__ import annotations

import enum
import itertools
import json
import random
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Union
from uuid import UUID

import msgspec
import pydantic
import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from headrace.v1.data_pb2 import Data
from headrace_gateway.api.documents import Document, parse_json
from headrace_gateway.api.payload_schema import KnownHandler
from headrace_gateway.grpc.data import read_data
from headrace_worker.api.payload import Decoder, payload_schema

# Each run uses the same types and payloads, so a new failure is caused by the change under test.
PROPERTY_SETTINGS = settings(max_examples=100, derandomize=True, deadline=None, database=None)


# Numbers for unique type names, from which msgspec derives schema names.
TYPE_NUMBERS = itertools.count()


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


class Circle(msgspec.Struct, tag="circle", forbid_unknown_fields=True):
    radius: Annotated[float, Meta(gt=0)]
    drawn: datetime | None = None


class Square(msgspec.Struct, tag="square"):
    sides: tuple[int, int]
    owners: dict[UUID, Decimal] = {}


class Second(msgspec.Struct, tag=2, tag_field="number"):
    at: Annotated[time, Meta(tz=False)]


class First(msgspec.Struct, tag=1, tag_field="number"):
    next: First | Second | None = None
    at: list[date] = []


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    born: pydantic.AwareDatetime


class Dog(pydantic.BaseModel):
    kind: Literal["dog", "wolf"]
    weight: Annotated[Decimal, pydantic.Field(gt=0, max_digits=3)]
    parents: list[Cat | Dog] = []


class Leaf(NamedTuple):
    """A type with valid values, and with values near its limits that may be invalid."""

    kind: Any
    good: list[Any]
    near: list[Any]


NUMBERS: list[Any] = [
    *(0, 1, -1, 9, 10, 11, 255, 1.0, -0.0, 1.5, 0.1, 0.3, 2**53, 2**53 + 1, 9007199254740994.0),
    *(2**63 - 1, 2**63, 2.0**63, -(2**63), -(2**63) - 1, 2**64, 1e16, 1e300, 10**308, 10**310),
]
TIMES: list[Any] = [
    *("2020-01-01", "2020-02-30", "0000-01-01", "0001-01-01", "9999-12-31", "20200101", "2020-1-1"),
    *("2020-01-01T00:00:00", "2020-01-01T00:00:00Z", "2020-01-01t00:00:00z", "2020-01-01 00:00"),
    *("2020-01-01T00:00:60Z", "2020-01-01T24:00:00Z", "2020-01-01T00:00:00.1234567+01:00"),
    *("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2020-01-01T00:00:00+24:00"),
    *("10:00", "10:00:00", "10:00:00Z", "10:00:00.5+01:00", "24:00:00", "25:00:00"),
    *(
        "P1D",
        "-P1D",
        "P1Y",
        "P1W",
        "PT0.5S",
        "P1DT2H3M4S",
        "P999999999D",
        "P9999999999D",
        "P",
        "PT",
    ),
    *("1577836800", "1e3", "now"),
]
TEXTS: list[Any] = [
    *("", " ", "a", "ab", "abc", "abcd", "  a  ", "é", "𝄞𝄞", "a\n", "red", "RED", "1", "1.0", "x"),
    *("00000000-0000-4000-8000-000000000000", "00000000000040008000000000000000", "urn:uuid:x"),
    *("12345678-1234-5678-1234-56781234567g", "{00000000-0000-4000-8000-000000000000}"),
    *("1.5", "1e5", "NaN", "Infinity", "-0", "1_000", " 1", "١", "12345.678", "0.001", "1e999999"),
    *("YQ==", "YQ", "Y Q=", "YWI=", "YWJj", "YWJjZA==", "%%%%", "____"),
]
JUNK: list[Any] = [None, True, False, [], {}, [None], {"a": 1}, *NUMBERS, *TIMES, *TEXTS]

INT = Leaf(int, [0, -1, 2**64, 1.0, 1e16, 9007199254740994.0], NUMBERS)
STR = Leaf(str, ["", "é", "2020"], TEXTS)
SHARED_LEAVES = [
    INT,
    STR,
    Leaf(bool, [True, False], [0, 1, "true"]),
    Leaf(float, [0, 1.5, -0.0, 10**308, 2**53 + 1], NUMBERS),
    Leaf(Literal["red", "blue"], ["red"], TEXTS),
    Leaf(Literal[1, 2], [1, 2], NUMBERS),
    Leaf(Color, ["red"], TEXTS),
    Leaf(Level, [1, 10], NUMBERS),
    Leaf(date, ["2020-01-01"], TIMES),
    Leaf(time, ["10:00:00", "10:00:00Z"], TIMES),
    Leaf(datetime, ["2020-01-01T00:00:00", "2020-01-01T00:00:00Z"], TIMES),
    Leaf(timedelta, ["P1D", "PT0.5S"], TIMES),
    Leaf(UUID, ["00000000-0000-4000-8000-000000000000"], TEXTS),
    Leaf(Decimal, ["1.5"], [*NUMBERS, *TEXTS]),
]
MSGSPEC_LEAVES = [
    *SHARED_LEAVES,
    Leaf(Annotated[int, Meta(ge=0, lt=10)], [0, 9], NUMBERS),
    Leaf(Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)], [-(2**53), 2**53], NUMBERS),
    Leaf(Annotated[int, Meta(multiple_of=5)], [10, 0], NUMBERS),
    Leaf(Annotated[float, Meta(gt=0, le=1.5)], [1, 1.5, 0.1], NUMBERS),
    Leaf(Annotated[float, Meta(multiple_of=0.1)], [0, 0.1], NUMBERS),
    Leaf(Annotated[str, Meta(min_length=2, max_length=3)], ["ab", "𝄞𝄞"], TEXTS),
    Leaf(Annotated[str, Meta(pattern="^[a-z]{1,3}$")], ["abc"], TEXTS),
    Leaf(Annotated[datetime, Meta(tz=True)], ["2020-01-01T00:00:00+01:00"], TIMES),
    Leaf(Annotated[datetime, Meta(tz=False)], ["2020-01-01T00:00:00"], TIMES),
    Leaf(Annotated[time, Meta(tz=True)], ["10:00:00Z"], TIMES),
    Leaf(Annotated[time, Meta(tz=False)], ["10:00:00"], TIMES),
    Leaf(int | float, [1, 1.5], NUMBERS),
    Leaf(
        Annotated[int, Meta(ge=0, lt=10)] | Annotated[float, Meta(gt=0, le=1e100)] | bool,
        [1, 1.5, 11.5, True],
        NUMBERS,
    ),
    Leaf(bytes, ["YQ==", ""], TEXTS),
    Leaf(Annotated[bytes, Meta(min_length=2, max_length=3)], ["YWI=", "YWJj"], TEXTS),
    Leaf(dict[int, int], [{"1": 1}, {}], [{"1.0": 1}, {"a": 1}, {"01": 1}, {"1": 1.0}]),
    Leaf(dict[date, int], [{"2020-01-01": 1}], [{key: 1} for key in TIMES]),
    Leaf(dict[UUID, int], [{}], [{key: 1} for key in TEXTS]),
    Leaf(dict[Color, int], [{"red": 1}], [{key: 1} for key in TEXTS]),
    Leaf(dict[Literal[1, 2], int], [{"1": 1}], [{"1.0": 1}, {"3": 1}]),
    Leaf(dict[Annotated[int, Meta(ge=5)], int], [{"5": 1}], [{"4": 1}, {"5": "x"}]),
    Leaf(dict[Annotated[str, Meta(max_length=2)], int], [{"ab": 1}], [{"abc": 1}]),
    Leaf(set[int], [[1, 2]], [[1, 1], [1, 1.0]]),
    Leaf(tuple[int, str], [[1.0, "a"]], [[1], [1, "a", 2], ["a", 1]]),
    Leaf(
        Circle | Square | None,
        [{"type": "circle", "radius": 1}, {"sides": [1.0, 2], "type": "square"}, None],
        [
            *({"type": "circle", "radius": value} for value in NUMBERS),
            *({"type": "circle", "radius": 1, "drawn": value} for value in TIMES),
            *({"type": "square", "sides": [1, 2], "owners": {key: 1}} for key in TEXTS),
            {"radius": 1},
            {"type": "cube", "radius": 1},
            {"type": "circle", "radius": 1, "more": 1},
        ],
    ),
    Leaf(
        First | Second,
        [{"number": 1}, {"number": 2, "at": "10:00:00"}],
        [
            *({"number": number, "at": "10:00:00"} for number in NUMBERS),
            *({"number": 2, "at": at} for at in TIMES),
            *({"number": 1, "next": {"number": 1, "at": [at]}} for at in TIMES),
        ],
    ),
]
FIELD = pydantic.Field
PYDANTIC_LEAVES = [
    *SHARED_LEAVES,
    Leaf(Annotated[int, FIELD(ge=0, lt=10)], [0, 9], NUMBERS),
    Leaf(Annotated[int, FIELD(multiple_of=5)], [10, 0], NUMBERS),
    Leaf(Annotated[float, FIELD(gt=0, le=1.5)], [1, 1.5, 0.1], NUMBERS),
    Leaf(Annotated[float, FIELD(multiple_of=0.1)], [0, 0.1], NUMBERS),
    Leaf(Annotated[int, FIELD(lt=10)] | Annotated[float, FIELD(le=1e100)], [1, 1.5], NUMBERS),
    Leaf(Annotated[float, FIELD(allow_inf_nan=False)], [1.5], NUMBERS),
    Leaf(Annotated[str, FIELD(min_length=2, max_length=3)], ["ab", "𝄞𝄞"], TEXTS),
    Leaf(Annotated[str, FIELD(pattern="^[a-z]{1,3}$")], ["abc"], TEXTS),
    Leaf(
        Annotated[str, pydantic.StringConstraints(strip_whitespace=True, min_length=2)],
        [" ab "],
        TEXTS,
    ),
    Leaf(Annotated[Decimal, FIELD(max_digits=5, decimal_places=2)], ["1.5"], [*NUMBERS, *TEXTS]),
    Leaf(Annotated[Decimal, FIELD(ge=Decimal("1.5"), lt=10)], ["1.5"], [*NUMBERS, *TEXTS]),
    Leaf(pydantic.AwareDatetime, ["2020-01-01T00:00:00Z"], TIMES),
    Leaf(pydantic.NaiveDatetime, ["2020-01-01T00:00:00"], TIMES),
    Leaf(pydantic.PastDate, ["2020-01-01"], TIMES),
    Leaf(
        Annotated[datetime, FIELD(ge=datetime.fromisoformat("2020-01-01"))],
        ["2020-01-01T00:00:00"],
        TIMES,
    ),
    Leaf(Annotated[timedelta, FIELD(le=timedelta(days=1))], ["P1D"], TIMES),
    Leaf(pydantic.UUID4, ["00000000-0000-4000-8000-000000000000"], TEXTS),
    Leaf(bytes, ["a", ""], TEXTS),
    Leaf(Annotated[bytes, FIELD(max_length=1)], ["a"], TEXTS),
    Leaf(dict[int, int], [{"1": 1}, {}], [{"1.0": 1}, {"a": 1}, {"01": 1}, {"1": 1.0}]),
    Leaf(dict[date, int], [{"2020-01-01": 1}], [{key: 1} for key in TIMES]),
    Leaf(dict[UUID, int], [{}], [{key: 1} for key in TEXTS]),
    Leaf(dict[Color, int], [{"red": 1}], [{key: 1} for key in TEXTS]),
    Leaf(dict[Literal["a"], int], [{"a": 1}], [{"b": 1}]),
    Leaf(dict[Annotated[str, FIELD(max_length=2)], int], [{"ab": 1}], [{"abc": 1}]),
    Leaf(set[int], [[1, 2]], [[1, 1], [1, 1.0]]),
    Leaf(tuple[int, str], [[1.0, "a"]], [[1], [1, "a", 2], ["a", 1]]),
    Leaf(
        Annotated[Cat | Dog, FIELD(discriminator="kind")],
        [{"kind": "cat", "born": "2020-01-01T00:00:00Z"}, {"kind": "wolf", "weight": "1.5"}],
        [
            *({"kind": "cat", "born": value} for value in TIMES),
            *({"kind": "dog", "weight": value} for value in [*NUMBERS, *TEXTS]),
            *({"kind": "dog", "weight": 1, "parents": [{"kind": "cat", "born": t}]} for t in TIMES),
            {"kind": "cow"},
            {"weight": 1},
        ],
    ),
]
# msgspec allows one type of each kind in a union. Types with a pattern are omitted: msgspec 0.22
# crashes when such a union with a list is freed. Handler types are never freed.
UNION_PARTS = {
    "text": [
        leaf
        for leaf in MSGSPEC_LEAVES
        if isinstance(leaf.good[0], str) and "pattern" not in str(leaf.kind)
    ],
    "number": [
        leaf
        for leaf in MSGSPEC_LEAVES
        if leaf.kind is int or leaf.kind == Annotated[int, Meta(ge=0, lt=10)]
    ],
    "array": [Leaf(list[int], [[1]], [["a"], [1.0]])],
    "object": [Leaf(dict[date, int], [{"2020-01-01": 1}], [{"x": 1}, {"a": {}}])],
}


def nested_leaves(leaves: list[Leaf], *, is_pydantic: bool) -> st.SearchStrategy[Leaf]:
    """Return a strategy for leaves nested in lists, optionals, unions and structures."""

    def lists(inner: Leaf) -> Leaf:
        kind = list[inner.kind]  # type: ignore[name-defined]
        return Leaf(kind, [[], inner.good], [[value] for value in inner.near[:40]])

    def optionals(inner: Leaf) -> Leaf:
        return Leaf(inner.kind | None, [None, *inner.good], inner.near)

    def unions(parts: list[Leaf]) -> Leaf:
        kind = Union[tuple(part.kind for part in parts)]  # noqa: UP007 - built here
        good = [value for part in parts for value in part.good]
        return Leaf(kind, good, [value for part in parts for value in part.near])

    def structures(fields: list[Leaf], form: int) -> Leaf:
        names = [f"f{number}" for number in range(len(fields))]
        if is_pydantic:
            extra: Any = pydantic.ConfigDict(extra="forbid" if form % 2 else "ignore")
            kind: Any = pydantic.create_model(
                f"Made{next(TYPE_NUMBERS)}",
                __config__=extra,
                **{name: (field.kind, ...) for name, field in zip(names, fields, strict=True)},
            )
        else:
            kind = msgspec.defstruct(
                f"Made{next(TYPE_NUMBERS)}",
                [(name, field.kind) for name, field in zip(names, fields, strict=True)],
                forbid_unknown_fields=form % 2 == 1,
                array_like=form % 4 >= 2,
                tag="made" if form >= 4 else None,
            )
        is_array = not is_pydantic and form % 4 >= 2
        tag = {"type": "made"} if not is_pydantic and form >= 4 else {}

        def whole(values: list[Any]) -> Any:
            if is_array:
                return [*tag.values(), *values]
            return {**tag, **dict(zip(names, values, strict=True))}

        first = [field.good[0] for field in fields]
        good = [whole([field.good[-1] for field in fields]), whole(first)]
        near = [
            whole([*first[:number], value, *first[number + 1 :]])
            for number, field in enumerate(fields)
            for value in field.near[:60]
        ]
        return Leaf(kind, good, [*near, [], {}, whole([*first[:-1], None]), [*tag.values(), 1]])

    leaf = st.sampled_from(leaves)
    union = (
        st.lists(leaf, min_size=2, max_size=3).map(unions)
        if is_pydantic
        else st.lists(st.sampled_from(sorted(UNION_PARTS)), min_size=2, max_size=4, unique=True)
        .flatmap(lambda kinds: st.tuples(*(st.sampled_from(UNION_PARTS[kind]) for kind in kinds)))
        .map(list)
        .map(unions)
    )
    part = leaf | union | leaf.map(lists) | leaf.map(optionals)
    made = st.builds(structures, st.lists(part, min_size=1, max_size=3), st.integers(0, 7))
    outer = st.builds(
        structures, st.lists(part | made.map(lists), min_size=1, max_size=2), st.just(0)
    )
    return made | outer if is_pydantic else part | made | outer


def json_text(value: Any, draw: random.Random) -> str:
    """Return a value as JSON, sometimes with repeated keys or integers written as fractions."""
    if isinstance(value, dict):
        members = [f"{json.dumps(key)}:{json_text(item, draw)}" for key, item in value.items()]
        if members and draw.random() < 0.2:
            key = json.dumps(next(iter(value)))
            members.insert(0, f"{key}:{json.dumps(draw.choice(JUNK))}")
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(json_text(item, draw) for item in value) + "]"
    if type(value) is int and draw.random() < 0.2:
        return f"{value}.0" if abs(value) < 10**300 else str(value)
    return json.dumps(value)


def to_protobuf(value: Any) -> struct_pb2.Value:
    """Return a value in the form of `Data.value`.

    Raises:
        OverflowError: an integer is too large for a double.
    """
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=float(value))
        case str():
            return struct_pb2.Value(string_value=value)
        case list():
            items = [to_protobuf(item) for item in value]
            return struct_pb2.Value(list_value=struct_pb2.ListValue(values=items))
        case _:
            fields = {key: to_protobuf(item) for key, item in value.items()}
            return struct_pb2.Value(struct_value=struct_pb2.Struct(fields=fields))


def accepts(handler: KnownHandler, decode: Decoder, data: Data) -> bool:
    """Return whether the gateway accepts a payload; if so, assert that the handler decodes it."""
    try:
        payload = read_data(data)
        document = payload if isinstance(payload, Document) else parse_json(payload, "payload")
    except ValueError:
        return False
    if not handler.accepts(document.content):
        assert list(handler.violations(document.content, "payload"))
        return False
    decode(document.text)
    return True


def check_agreement(leaf: Leaf, draw: random.Random) -> None:
    handler = KnownHandler("t", "default", payload_schema(leaf.kind))
    decode = Decoder(leaf.kind)
    for value in leaf.good:
        assert accepts(handler, decode, Data(json=json_text(value, draw).encode())), (
            leaf.kind,
            value,
        )
        assert accepts(handler, decode, Data(value=to_protobuf(value))), (leaf.kind, value)
    for value in [*leaf.near, *draw.sample(JUNK, 20)]:
        accepts(handler, decode, Data(json=json_text(value, draw).encode()))
        try:
            accepts(handler, decode, Data(value=to_protobuf(value)))
        except OverflowError:
            continue


@pytest.mark.parametrize("leaf", MSGSPEC_LEAVES, ids=lambda leaf: str(leaf.kind))
def test_each_msgspec_type_decodes_accepted_payloads(leaf: Leaf) -> None:
    for seed in range(3):
        check_agreement(leaf, random.Random(seed))


@pytest.mark.parametrize("leaf", PYDANTIC_LEAVES, ids=lambda leaf: str(leaf.kind))
def test_each_pydantic_type_decodes_accepted_payloads(leaf: Leaf) -> None:
    model = pydantic.create_model("Made", f=(leaf.kind, ...))
    held = Leaf(model, [{"f": v} for v in leaf.good], [{"f": v} for v in [*leaf.near, *JUNK]])
    for seed in range(3):
        check_agreement(held, random.Random(seed))


@pytest.mark.timeout(300)
@PROPERTY_SETTINGS
@given(nested_leaves(MSGSPEC_LEAVES, is_pydantic=False), st.randoms(use_true_random=False))
def test_random_msgspec_types_decode_accepted_payloads(leaf: Leaf, draw: random.Random) -> None:
    check_agreement(leaf, draw)


@pytest.mark.timeout(300)
@PROPERTY_SETTINGS
@given(nested_leaves(PYDANTIC_LEAVES, is_pydantic=True), st.randoms(use_true_random=False))
def test_random_pydantic_types_decode_accepted_payloads(leaf: Leaf, draw: random.Random) -> None:
    check_agreement(leaf, draw)
