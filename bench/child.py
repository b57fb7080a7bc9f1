"""Child processes that create load, so that load and measurement use separate interpreters."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final, TypeAlias, TypeVar

import uvloop

# A fork of this process would inherit the gRPC threads. The fork server has none, and imports the
# modules of all children once.
_FORK_SERVER: Final = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(
    ["bench.streams.polling", "bench.streams.readers", "bench.streams.writer"]
)
# Longest time from the signal to a child until it exits, in seconds.
_EXIT_TIMEOUT_S: Final = 10.0

# Longest time that a child waits for its next instruction, in seconds.
IDLE_S: Final = 900.0

T = TypeVar("T")


class ChildFailedError(Exception):
    """A child failed; the message is its traceback."""


class Link:
    """One end of the pipe between a child and its parent.

    Args:
        connection: the pipe.
    """

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection

    def send(self, message: object) -> None:
        """Send an object that can be pickled."""
        self._connection.send(message)

    async def receive(self, kind: type[T], *, timeout: float) -> T:  # noqa: ASYNC109 - over a pipe
        """Return the next message from the other end of the pipe.

        Args:
            kind: the expected class of the message.
            timeout: seconds.

        Raises:
            ChildFailedError: the child failed.
            EOFError: the other end closed the pipe.
            TimeoutError: no message arrived in time.
        """
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._connection.fileno(), ready.set)
        try:
            async with asyncio.timeout(timeout):
                await ready.wait()
        finally:
            loop.remove_reader(self._connection.fileno())
            # uvloop made the pipe non-blocking and does not restore it.
            os.set_blocking(self._connection.fileno(), True)
        message = self._connection.recv()
        if isinstance(message, ChildFailedError):
            raise message
        assert isinstance(message, kind), f"{message!r} is not a {kind.__name__}"
        return message


Work: TypeAlias = Callable[..., Coroutine[Any, Any, None]]


class Child:
    """A running child.

    Attributes:
        link: our end of the pipe to the child.
        pid: the child's process id.
    """

    def __init__(self, link: Link, pid: int) -> None:
        self.link = link
        self.pid = pid

    @classmethod
    @contextmanager
    def running(cls, name: str, work: Work, *arguments: object) -> Iterator[Child]:
        """Run `work(link, *arguments)` in a child process for the duration of the block.

        Args:
            name: the process name.
            work: a coroutine function at module level.
            arguments: objects that can be pickled.
        """
        ours, theirs = _FORK_SERVER.Pipe()
        process = _FORK_SERVER.Process(
            target=_run, args=(theirs, work, arguments), name=name, daemon=True
        )
        process.start()
        theirs.close()
        assert process.pid is not None
        try:
            yield cls(Link(ours), process.pid)
        finally:
            process.terminate()
            process.join(_EXIT_TIMEOUT_S)
            if process.is_alive():
                process.kill()
            ours.close()


def _run(connection: Connection[Any, Any], work: Work, arguments: tuple[object, ...]) -> None:
    link = Link(connection)
    try:
        uvloop.run(work(link, *arguments))
    except KeyboardInterrupt:
        pass
    except Exception:  # noqa: BLE001 - reported to the parent
        link.send(ChildFailedError(traceback.format_exc()))
