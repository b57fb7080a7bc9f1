"""The no-op handler of the Headrace worker."""

from __future__ import annotations

from msgspec import Struct

from bench.peers.contract import count_job
from headrace_worker import handler


class Noop(Struct):
    """The payload that all contestants use."""

    n: int


@handler("noop")
async def noop(payload: Noop) -> None:  # noqa: ARG001 - the handler does no work
    """Count one job."""
    count_job()
