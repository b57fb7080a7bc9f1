"""Detects processes in which gRPC cannot work, before they hang or crash.

gRPC's threads do not survive a fork, and its asyncio layer cannot start again: in the child, calls
never end or the process crashes. If a process has connected before the fork, clients raise
ForkedProcess in the child, and the gRPC objects that the child inherited are never released. If the
process has not connected, clients work in the child.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any, Final, Protocol

from headrace.errors import ForkedProcess, MonkeyPatched

# Modules whose replacement makes gRPC's threads or asyncio's loops hang. gevent calls the first
# module "threading" or "thread"; eventlet calls it "thread".
_PATCHABLE_MODULES: Final = ("thread", "threading", "socket", "select")

# The name of the grpc.aio thread, which runs from the first use of grpc.aio to the end of the
# process.
_POLLER_THREAD: Final = "(_poll_wrapper)"


class Owner(Protocol):
    """An object whose thread, event loop or gRPC objects a forked child cannot use."""

    def abandon(self) -> object:
        """Drop and return these parts in a forked child; they are never released."""


class _Process:
    def __init__(self) -> None:
        self.connected = self.forked = False
        self.owners: weakref.WeakSet[Any] = weakref.WeakSet()
        self.kept: list[object] = []

    def before_fork(self) -> None:
        # A program that uses grpc.aio without a client has the same problem.
        self.connected |= any(_POLLER_THREAD in thread.name for thread in threading.enumerate())

    def after_fork(self) -> None:
        self.forked |= self.connected
        self.kept += [owner.abandon() for owner in self.owners]


_process: Final = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_process.before_fork, after_in_child=_process.after_fork)


def register(owner: Owner) -> None:
    """Register `owner`, whose unusable parts a forked child drops."""
    _process.owners.add(owner)


def check_forked() -> None:
    """Check that this process is not a fork of a process that has used gRPC.

    Raises:
        ForkedProcess: this process is such a fork.
    """
    if _process.forked:
        raise ForkedProcess(
            "this process is a fork of a process that has used gRPC (a connected Headrace client "
            "or grpc.aio), so gRPC cannot work in it; use clients only after the fork (with "
            "gunicorn --preload, not while the application loads), or start processes with the "
            "methods 'spawn' or 'forkserver' of multiprocessing"
        )


def check_monkey_patches() -> None:
    """Check that gevent and eventlet have not replaced modules that gRPC and asyncio need.

    Raises:
        MonkeyPatched: a module was replaced.
    """
    for library, patched in (
        ("gevent", _modules_patched_by_gevent()),
        ("eventlet", _modules_patched_by_eventlet()),
    ):
        if patched:
            raise MonkeyPatched(
                f"{library} has replaced {', '.join(patched)} in this process, and gRPC would "
                "hang; use the client in a process without monkey patching, for example with "
                "threads (gunicorn -k gthread)"
            )


def record_connection() -> None:
    """Check that this process may connect to a gateway, and record that it does.

    Raises:
        ForkedProcess, MonkeyPatched: gRPC cannot work in this process.
    """
    check_forked()
    check_monkey_patches()
    _process.connected = True


def _modules_patched_by_gevent() -> list[str]:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return []
    return [name for name in _PATCHABLE_MODULES if monkey.is_module_patched(name)]


def _modules_patched_by_eventlet() -> list[str]:
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is None:
        return []
    return [name for name in _PATCHABLE_MODULES if patcher.is_monkey_patched(name)]
