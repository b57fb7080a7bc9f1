"""The options of RPCs in the contract."""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import MethodOptions

from headrace_web.gateway import METHODS

# A GET may call an RPC without side effects, so an RPC that writes must not be marked.
_READING = ("Get", "List", "WhoAmI")


def test_unary_rpcs_that_read_have_no_side_effects() -> None:
    marked = {
        path
        for path, method in METHODS.items()
        if method.descriptor.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    }
    reading = {
        path
        for path, method in METHODS.items()
        if method.descriptor.name.startswith(_READING) and not method.streams
    }
    assert marked == reading
    assert "/headrace.v1.AccessService/WhoAmI" in marked
