"""gRPC's queue of completed calls, which all servers and channels of a process share."""

from __future__ import annotations

from functools import cache

import grpc.aio


@cache
def keep_completion_queue() -> None:
    """Keeps the queue for as long as the process lives.

    It would be shut down with the last server or channel: then the event loop stands still until
    the queue's thread has ended, which now and then it never does (grpc/grpc issue 22365).
    """
    grpc.aio.init_grpc_aio()  # type: ignore[attr-defined] # the stubs lack it
