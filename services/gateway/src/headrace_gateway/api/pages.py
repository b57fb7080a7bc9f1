"""Pages of a list. The request limits their items, and the transport limits their bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")
Item_contra = TypeVar("Item_contra", contravariant=True)
Key = TypeVar("Key")


class Page(Protocol[Item_contra]):
    """The items of one response, in the form of its transport."""

    def add(self, item: Item_contra) -> bool:
        """Add an item; return False if it does not fit on the page.

        An empty page accepts any item.
        """


def split_page(items: Sequence[T], wanted: int) -> tuple[Sequence[T], bool]:
    """Return the items of a page, for the `read` of `fill_page`.

    Args:
        items: the result of a query for one item more than `wanted`. The extra item shows that
            more items follow.
        wanted: the maximum number of items.

    Returns:
        The items, and True if no item follows them.
    """
    return items[:wanted], len(items) <= wanted


async def fill_page(
    page: Page[T],
    read: Callable[[Key, int], Awaitable[tuple[Sequence[T], bool]]],
    *,
    key: Callable[[T], Key],
    after: Key,
    size: int,
    step: int | None = None,
) -> Key | None:
    """Fill a page with the items after a key.

    Args:
        page: receives the items in order.
        read: receives a key and a maximum number of items. It returns the items after the key, and
            True if no item follows them.
        key: returns the key of an item.
        after: the key to start after.
        size: the maximum number of items on the page.
        step: the maximum number of items per read. A small step wastes fewer items when the page is
            full.

    Returns:
        The key of the last item on the page; None if no item follows.
    """
    added = 0
    while True:
        wanted = size - added if step is None else min(size - added, step)
        items, complete = await read(after, wanted)
        for item in items:
            if not page.add(item):
                return after
            after = key(item)
        added += len(items)
        if complete:
            return None
        if added >= size:
            return after
