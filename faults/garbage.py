"""A client that sends invalid and hostile messages, and prints the responses.

python -m faults.garbage SEED SECONDS TARGET...
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf import struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs lack it
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from headrace.v1 import (
    data_pb2,
    handler_service_pb2,
    job_pb2,
    job_service_pb2,
    subscription_service_pb2,
)

SERVICES: Final = (
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    handler_service_pb2.DESCRIPTOR.services_by_name["HandlerService"],
    subscription_service_pb2.DESCRIPTOR.services_by_name["SubscriptionService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
METHODS: Final[Sequence[MethodDescriptor]] = [m for service in SERVICES for m in service.methods]

# The timeout of a call, and the time that an accepted stream stays open, in seconds.
_CALL_TIMEOUT_S: Final = 20.0
_STREAM_OPEN_S: Final = 0.5
_MIB: Final = 2**20

# The job type whose handler accepts any payload.
ANY_PAYLOAD_TYPE: Final = "echo"

_TEXTS: Final = (
    *(
        "",
        "work",
        ANY_PAYLOAD_TYPE,
        "default",
        "side",
        "a",
        "*",
        "\0",
        "a\0b",
        "\u202e",
        "\U0010ffff",
    ),
    *("ä" * 200, "x" * 5000, "%", "'; --", "a,b", "../..", "-1", "null", "[]", "{}"),
    *("00000000-0000-0000-0000-000000000000", "0193c2f0-0000-7000-8000-00000000zzzz"),
    *("0193c2f0-0000-7000-8000-000000000000", "AAAA", "====", "type = 'work'", "label.a = 'b'"),
)
_BYTES: Final = (
    *(b"", b"{}", b"null", b"NaN", b"[Infinity]", b"1e999", b'{"a":-1e400}', b"\xff\xfe", b"{"),
    *(b'"\\ud800"', b'{"a":"\\u0000"}', b'{"a":1,"a":2}', b"[" * 50, b"[" * 99 + b"]" * 99),
    *(b"\xef\xbb\xbf{}", b"9" * 5000, b'{"seconds":0}', b'{"seconds":1e308}'),
)
_INTEGERS: Final = (0, 1, -1, 2, 100, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, -(2**63))
_DOUBLES: Final = (0.0, -0.0, 0.5, 1.0, -1.0, 1e308, 5e-324, float("nan"), float("inf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """One call: the kind of garbage, the method and the message."""

    kind: str
    path: str
    body: bytes
    streams: bool = False
    metadata: Sequence[tuple[str, str | bytes]] = ()


@dataclass(slots=True)
class Responses:
    """The responses to garbage: counts by kind and code, and an example of each."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, garbage: Garbage, code: str, text: str) -> None:
        """Count a response, and keep the first one of its kind and code as an example."""
        self.counts.setdefault(garbage.kind, Counter())[code] += 1
        self.examples.setdefault(
            f"{garbage.kind} {code}", f"{garbage.path}: {text[:200]}; {garbage.body[:300].hex()}"
        )


def handmade_messages(rng: random.Random) -> Iterator[Garbage]:
    """Yield all handmade messages repeatedly."""
    while True:
        yield from _handmade_messages(rng)


def random_messages(rng: random.Random) -> Iterator[Garbage]:
    """Yield random messages forever."""
    while True:
        for method in METHODS:
            yield _garbage_call(method, "random bytes", rng.randbytes(rng.choice((1, 9, 99, 999))))
            message = _message(method.input_type, rng)
            yield _garbage_call(method, "random message", message.SerializeToString())
            yield _garbage_call(method, "mutated", _mutate(message.SerializeToString(), rng))


def _handmade_messages(rng: random.Random) -> Iterator[Garbage]:
    submit = METHODS[0]
    for method in METHODS:
        for size in (5, 100) if method is submit else (5,):
            yield _garbage_call(method, f"{size} MB", bytes(size * _MIB))
        yield _garbage_call(method, "deep", b"\x0b" * 10_000)
    for name in ("Nope", "", "submitjob", "SubmitJob/x"):
        yield Garbage(kind="unknown method", path=f"/headrace.v1.JobService/{name}", body=b"")
    for raw in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 40_000 + b"1"):
        yield _job("deep JSON", payload=data_pb2.Data(json=raw))
    yield _job("JSON at the depth limit", payload=data_pb2.Data(json=b"[" * 30 + b"]" * 30))
    # 10,000 nested lists, built by hand because an encoder stops at a depth of 100.
    value = struct_pb2.Value(null_value=struct_pb2.NULL_VALUE).SerializeToString()
    for _ in range(10_000):
        value = _field(6, _field(1, value))
    yield _garbage_call(
        submit, "deep Struct", _field(1, _field(2, _field(1, value)) + _field(1, b"echo"))
    )
    for raw in (b"\xff", b"\xed\xa0\x80", b"a\xc0\x80"):
        yield _garbage_call(submit, "invalid UTF-8", _field(1, _field(1, raw)))
        yield _job("invalid UTF-8", payload=data_pb2.Data(json=b'"' + raw + b'"'))
    for number in (float("nan"), float("inf"), -float("inf")):
        value_message = struct_pb2.Value(list_value=struct_pb2.ListValue(values=[]))
        value_message.list_value.values.add(number_value=number)
        yield _job("NaN", payload=data_pb2.Data(value=value_message))
        retry = job_pb2.RetryPolicy(jitter=number, multiplier=number)
        yield _job("NaN", retry_policy=retry)
    for raw in (b"NaN", b"[Infinity]", b"-Infinity", b"1e999"):
        yield _job("NaN", payload=data_pb2.Data(json=raw))
    yield from _large_messages(rng)
    for method in METHODS:
        yield _garbage_call(method, "metadata", b"", (("x-request-id", "~" * 4000),))
        yield _garbage_call(method, "metadata", b"", (("x-junk-bin", rng.randbytes(20_000)),))
        yield _garbage_call(method, "metadata", b"", [(f"x-{n}", "y" * 50) for n in range(500)])


def _large_messages(rng: random.Random) -> Iterator[Garbage]:
    """Yield messages within the size limit that contain as many elements as possible."""
    by_name = {method.name: method for method in METHODS}
    entry = _field(1, b"k") + _field(2, b"v")
    for count in (10_000, 1_000_000):
        yield _garbage_call(by_name["BatchSubmitJobs"], "huge repeated", _field(1, b"") * count)
        for name in ("ListJobs", "WatchJobs", "CreateSubscription"):
            for number in range(1, 5):
                # The filter is field 1 or 2; its lists are the first fields of the filter.
                inner = _field(number, b"") * count
                yield _garbage_call(by_name[name], "huge repeated", _field(1, inner))
                yield _garbage_call(by_name[name], "huge repeated", _field(2, inner))
        # A map that repeats one key, and unknown fields.
        yield _garbage_call(METHODS[0], "huge repeated", _field(1, _field(5, entry) * (count // 4)))
        yield _garbage_call(METHODS[0], "huge repeated", b"\x98\x06\x01" * count)
    items = ",".join(["{}"] * 80_000)
    yield _job("huge repeated", payload=data_pb2.Data(json=f"[{items}]".encode()))
    value = struct_pb2.Value(list_value=struct_pb2.ListValue())
    for _ in range(80_000):
        value.list_value.values.add(bool_value=True)
    yield _job("huge repeated", payload=data_pb2.Data(value=value))
    labels = {str(number): rng.choice(_TEXTS) for number in range(5000)}
    yield _job("huge repeated", labels=labels)


def _garbage_call(
    method: MethodDescriptor,
    kind: str,
    body: bytes,
    metadata: Sequence[tuple[str, str | bytes]] = (),
) -> Garbage:
    return Garbage(
        kind=kind,
        path=f"/{method.containing_service.full_name}/{method.name}",
        body=body,
        streams=bool(method.server_streaming),
        metadata=metadata,
    )


def _job(kind: str, **fields: Any) -> Garbage:
    job = job_pb2.JobSpec(type=ANY_PAYLOAD_TYPE, **fields)
    request = job_service_pb2.SubmitJobRequest(job=job)
    return _garbage_call(METHODS[0], kind, request.SerializeToString())


def _field(number: int, body: bytes) -> bytes:
    """Return a length-delimited field in the protobuf encoding."""
    head = bytes([number << 3 | 2])
    size = len(body)
    while size > 0x7F:
        head += bytes([size & 0x7F | 0x80])
        size >>= 7
    return head + bytes([size]) + body


def _mutate(raw: bytes, rng: random.Random) -> bytes:
    body = bytearray(raw or b"\0")
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(body) + 1)
        match rng.randrange(4):
            case 0:
                body[place : place + 1] = rng.randbytes(1)
            case 1:
                del body[place : place + rng.randint(1, 8)]
            case 2:
                body[place:place] = rng.randbytes(rng.randint(1, 8))
            case _:
                body[place:place] = body[: rng.randrange(50)]
        body = body or bytearray(b"\0")
    return bytes(body)


def _message(descriptor: Descriptor, rng: random.Random, depth: int = 0) -> Message:
    """Return a well-formed message with random, unusual values."""
    message = GetMessageClass(descriptor)()
    for each in descriptor.fields:
        if rng.random() < 0.4:
            continue
        if _is_map(each):
            # Apart from Struct, the API has only string maps.
            if _message_type(each).fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                getattr(message, each.name)[rng.choice(_TEXTS)] = rng.choice(_TEXTS)
        elif each.type == FieldDescriptor.TYPE_MESSAGE:
            if depth < 8:
                inner = _message(_message_type(each), rng, depth + 1)
                if each.is_repeated:
                    getattr(message, each.name).append(inner)
                else:
                    getattr(message, each.name).CopyFrom(inner)
        elif each.is_repeated:
            getattr(message, each.name).append(_scalar(each, rng))
        else:
            setattr(message, each.name, _scalar(each, rng))
    return message


def _message_type(each: FieldDescriptor) -> Descriptor:
    """Return the type of a field that contains messages."""
    assert each.message_type is not None
    return each.message_type


def _is_map(each: FieldDescriptor) -> bool:
    return each.message_type is not None and each.message_type.GetOptions().map_entry


_INTEGER_BOUNDS: Final[Mapping[int, tuple[int, int]]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1000),
}


def _scalar(each: FieldDescriptor, rng: random.Random) -> Any:
    if each.cpp_type in _INTEGER_BOUNDS:
        least, most = _INTEGER_BOUNDS[each.cpp_type]
        if each.cpp_type == FieldDescriptor.CPPTYPE_ENUM and rng.random() < 0.8:
            return rng.randrange(8)
        return min(most, max(least, rng.choice(_INTEGERS)))
    if each.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice(_BYTES)
    if each.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(_TEXTS)
    if each.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    return rng.choice(_DOUBLES)


async def send(target: str, source: Iterator[Garbage], responses: Responses, until: float) -> None:
    """Send garbage until a time on the monotonic clock.

    Args:
        target: the address of a gateway.
        source: the messages to send.
        responses: collects the responses.
        until: when to stop, in seconds of the monotonic clock.
    """
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_retries", 0),
    ]
    async with aio.insecure_channel(target, options=options) as channel:
        while time.monotonic() < until:
            garbage = next(source)
            try:
                code, text = await _send(channel, garbage)
            except aio.AioRpcError as error:
                code, text = error.code().name, error.details() or ""
            responses.add(garbage, code, text)


async def _send(channel: aio.Channel, garbage: Garbage) -> tuple[str, str]:
    make: Callable[..., Any] = channel.unary_stream if garbage.streams else channel.unary_unary
    call = make(garbage.path)(
        garbage.body, timeout=_CALL_TIMEOUT_S, metadata=tuple(garbage.metadata)
    )
    if not garbage.streams:
        await call
        return "OK", ""
    try:
        async with asyncio.timeout(_STREAM_OPEN_S):
            while await call.read() is not EOF:
                pass
    except TimeoutError:
        # The message was valid and opened a stream.
        call.cancel()
        return "OK", ""
    code: grpc.StatusCode = await call.code()
    return code.name, await call.details() or ""


async def main(seed: int, seconds: float, targets: Sequence[str]) -> None:
    """Send garbage to all targets, and print the responses as JSON."""
    responses = Responses()
    until = time.monotonic() + seconds
    await asyncio.gather(
        *(
            send(target, kind(random.Random(seed)), responses, until)
            for target in targets
            for kind in (handmade_messages, random_messages)
        )
    )
    sys.stdout.write(
        json.dumps({"counts": responses.counts, "examples": responses.examples}) + "\n"
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
