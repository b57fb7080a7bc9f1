"""The no-op handler, in a worker of Headrace."""

from __future__ import annotations

from msgspec import Struct

from bench.peers.contract import count
from headrace_worker import handler


class Noop(Struct):
    """What all contestants send."""

    n: int


@handler("noop")
async def noop(payload: Noop) -> None:  # noqa: ARG001 - it does nothing
    """Counts itself."""
    count()
