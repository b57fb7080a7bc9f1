"""Load in a process of its own, so that it does not share an interpreter with what measures it."""

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

# A fork would inherit the threads of gRPC.
_SPAWN: Final = multiprocessing.get_context("spawn")
# How long a child may take to end once it was told to, in seconds.
_END: Final = 10.0

# How long a child waits for what to do next, in seconds.
IDLE_S: Final = 900.0

T = TypeVar("T")


class ChildFailedError(Exception):
    """A child has failed; its traceback is the message."""


class Link:
    """One end of the pipe between a child and who started it.

    Args:
        connection: the pipe.
    """

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection

    def send(self, message: object) -> None:
        """Sends what can be pickled."""
        self._connection.send(message)

    async def receive(self, kind: type[T], *, timeout: float) -> T:  # noqa: ASYNC109 - over a pipe
        """What the other end has sent.

        Args:
            kind: what it must be.
            timeout: seconds.

        Raises:
            ChildFailedError: the child has failed.
            EOFError: the other end is gone.
            TimeoutError: nothing came.
        """
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._connection.fileno(), ready.set)
        try:
            async with asyncio.timeout(timeout):
                await ready.wait()
        finally:
            loop.remove_reader(self._connection.fileno())
            # uvloop has changed that, and leaves it so.
            os.set_blocking(self._connection.fileno(), True)
        message = self._connection.recv()
        if isinstance(message, ChildFailedError):
            raise message
        assert isinstance(message, kind), f"{message!r} is no {kind.__name__}"
        return message


Work: TypeAlias = Callable[..., Coroutine[Any, Any, None]]


class Child:
    """A child that runs.

    Attributes:
        link: talks to it.
        pid: its process id.
    """

    def __init__(self, link: Link, pid: int) -> None:
        self.link = link
        self.pid = pid

    @classmethod
    @contextmanager
    def running(cls, name: str, work: Work, *arguments: object) -> Iterator[Child]:
        """Runs `work(link, *arguments)` in a process for the length of the block.

        Args:
            name: the process's.
            work: a coroutine function of a module.
            arguments: must be fit to be pickled.
        """
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_run, args=(theirs, work, arguments), name=name, daemon=True
        )
        process.start()
        theirs.close()
        assert process.pid is not None
        try:
            yield cls(Link(ours), process.pid)
        finally:
            process.terminate()
            process.join(_END)
            if process.is_alive():
                process.kill()
            ours.close()


def _run(connection: Connection[Any, Any], work: Work, arguments: tuple[object, ...]) -> None:
    link = Link(connection)
    try:
        uvloop.run(work(link, *arguments))
    except KeyboardInterrupt:
        pass
    except Exception:  # noqa: BLE001 - it belongs to who started this process
        link.send(ChildFailedError(traceback.format_exc()))
