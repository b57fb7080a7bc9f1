"""Processes in which gRPC cannot work: refused before they hang or crash.

gRPC's threads do not survive a fork, and its asyncio layer cannot start again: in the child a call
never ends or the process crashes. So the child of a process that had connected is refused, and gRPC
never gets back an object that the child inherited. A client that had not connected works there.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any, Final, Protocol

from headrace.errors import ForkedProcess, MonkeyPatched

# Modules whose replacement makes gRPC's threads or asyncio's loops hang. gevent calls the first one
# "threading" or "thread", eventlet "thread".
_MODULES: Final = ("thread", "threading", "socket", "select")

# The thread of grpc.aio, which is there from its first use to the end of the process.
_POLLER: Final = "(_poll_wrapper)"


class Owner(Protocol):
    """An object with a thread, an event loop or parts of gRPC, useless in a forked child."""

    def abandon(self) -> object:
        """Drop those parts in a forked child, and return them to be kept alive for ever."""


class _Process:
    def __init__(self) -> None:
        self.connected = self.forked = False
        self.owners: weakref.WeakSet[Any] = weakref.WeakSet()
        self.kept: list[object] = []

    def before_fork(self) -> None:
        # A program that uses grpc.aio without a client is no better off.
        self.connected |= any(_POLLER in thread.name for thread in threading.enumerate())

    def after_fork(self) -> None:
        self.forked |= self.connected
        self.kept += [owner.abandon() for owner in self.owners]


_process: Final = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_process.before_fork, after_in_child=_process.after_fork)


def own(owner: Owner) -> None:
    """Have `owner` drop what a forked child must not use."""
    _process.owners.add(owner)


def check_forked() -> None:
    """Refuse a process that was forked from one that had used gRPC.

    Raises:
        ForkedProcess: this process is one.
    """
    if _process.forked:
        raise ForkedProcess(
            "this process was forked from one that had used gRPC (a Headrace client that had "
            "connected, or grpc.aio), and gRPC cannot work in it; use clients only after the fork "
            "(with gunicorn --preload: not while the application is loaded), or start processes "
            "with multiprocessing's 'spawn' or 'forkserver'"
        )


def check_monkey_patches() -> None:
    """Refuse a process in which gevent or eventlet has replaced what gRPC and asyncio need.

    Raises:
        MonkeyPatched: it has.
    """
    for library, patched in (("gevent", _gevent()), ("eventlet", _eventlet())):
        if patched:
            raise MonkeyPatched(
                f"{library} has replaced {', '.join(patched)} in this process, and gRPC hangs on "
                "that; use the client in a process without monkey patching, with threads instead "
                "(gunicorn -k gthread), or in a process of its own"
            )


def connect() -> None:
    """Record that this process connects to a gateway, if it may.

    Raises:
        ForkedProcess, MonkeyPatched: gRPC cannot work in it.
    """
    check_forked()
    check_monkey_patches()
    _process.connected = True


def _gevent() -> list[str]:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return []
    return [name for name in _MODULES if monkey.is_module_patched(name)]


def _eventlet() -> list[str]:
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is None:
        return []
    return [name for name in _MODULES if patcher.is_monkey_patched(name)]
