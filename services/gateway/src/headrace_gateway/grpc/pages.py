"""Pages of messages, limited in bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

# The maximum size of a page with several items, in bytes. A single item may be larger: a job has
# two documents and less than 1 MiB of other fields.
MAX_PAGE_BYTES: Final = 3 * 1024 * 1024

Item_contra = TypeVar("Item_contra", contravariant=True)
M = TypeVar("M", bound=Message)


class MessagePage(Generic[Item_contra, M]):
    """The messages of one response.

    A page ends before a message that would exceed `MAX_PAGE_BYTES`. Its first message may be
    larger.

    Args:
        convert: converts an item to its message.
    """

    def __init__(self, convert: Callable[[Item_contra], M]) -> None:
        self.messages: list[M] = []
        self._convert = convert
        self._size = 0

    def add(self, item: Item_contra) -> bool:
        """Add an item; return False if it does not fit on the page."""
        message = self._convert(item)
        self._size += message.ByteSize()
        if self.messages and self._size > MAX_PAGE_BYTES:
            return False
        self.messages.append(message)
        return True
