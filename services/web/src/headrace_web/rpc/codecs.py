"""The codecs of messages: binary, and JSON in the mapping of proto3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from connectrpc.codec import Codec
from connectrpc.compat import google_protobuf_binary_codec
from google.protobuf import json_format
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


class _CompactJson(Codec[Message, M]):
    """The library's JSON codec indents each message."""

    def name(self) -> str:
        """Return the name in content types."""
        return "json"

    def encode(self, message: Message) -> bytes:
        """Return the JSON text of a message."""
        return msgspec.json.encode(json_format.MessageToDict(message))

    def decode(self, data: bytes | bytearray, message_class: type[M]) -> M:
        """Return the message of a JSON text; unknown fields are ignored, as in the protocol.

        Raises:
            json_format.ParseError: the text does not match the message.
        """
        return json_format.Parse(bytes(data), message_class(), ignore_unknown_fields=True)


def codecs() -> Sequence[Codec]:
    """Return all codecs."""
    return (google_protobuf_binary_codec(), _CompactJson())
