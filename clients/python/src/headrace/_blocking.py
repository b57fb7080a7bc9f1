"""Asynchronous things for synchronous callers: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from concurrent import futures
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar

from headrace import _process

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")
W = TypeVar("W")

_END: Final = object()
# How often a waiting thread looks for signals, in seconds.
_GLANCE: Final = 0.5
# How long cancelled work may take to end, in seconds.
_PATIENCE: Final = 5.0


class LoopThread:
    """An event loop that runs in a daemon thread, from its first use until it is closed.

    A forked child has no such thread and must not touch the loop, so it starts a new pair.
    """

    def __init__(self) -> None:
        self._closed = False
        self._begin()
        _process.own(self)

    def _begin(self) -> None:
        self._starting = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None

    def abandon(self) -> object:
        """Drop the loop in a forked child: it shares its sockets and its epoll with the parent."""
        running = self._running
        self._begin()
        return running

    @property
    def closed(self) -> bool:
        return self._closed

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` in the loop and waits for it; Ctrl-C cancels it.

        Raises:
            RuntimeError: it is closed, or this is its own thread.
        """
        try:
            if self._closed or threading.current_thread() in (self._running or ()):
                raise RuntimeError("this client is closed, or called from its own event loop")
            loop, thread = self._running or self._start()
        except BaseException:
            work.close()
            raise
        return self._run(work, loop, thread)

    def _run(
        self,
        work: Coroutine[Any, Any, T],
        loop: asyncio.AbstractEventLoop,
        thread: threading.Thread,
    ) -> T:
        ended: futures.Future[T] = futures.Future()
        task: asyncio.Task[T] | None = None

        def begin() -> None:
            nonlocal task
            task = loop.create_task(work)
            task.add_done_callback(functools.partial(_settle, ended))

        def interrupt() -> None:
            if task is not None:
                task.cancel()
            else:
                work.close()
                ended.set_exception(RuntimeError("interrupted before it began"))

        try:
            loop.call_soon_threadsafe(begin)
            return _result(ended, thread)
        except BaseException:
            if not ended.done():
                # Only the wait was interrupted, by Ctrl-C. The work must have ended before anybody
                # goes on, for instance to close the generator that it stands in.
                loop.call_soon_threadsafe(interrupt)
                futures.wait([ended], timeout=_PATIENCE)
            raise

    def iterate(self, source: AsyncIterator[T]) -> Generator[T, None, None]:
        """Yields what `source` yields, and closes it in the end."""
        try:
            while True:
                item = self.run(_next(source))
                if item is _END:
                    return
                yield item
        finally:
            aclose = getattr(source, "aclose", None)
            # At the end of the program the thread is gone.
            running = self._running is not None and not sys.is_finalizing()
            if aclose is not None and running and not self._closed:
                self.run(aclose())

    def close(self) -> None:
        """Ends the loop and its thread, with what still runs in it."""
        with self._starting:
            closed, self._closed = self._closed, True
        if not closed and self._running is not None:
            loop, thread = self._running
            self._run(_cancel_others(), loop, thread)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _start(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        _process.check_monkey_patches()
        with self._starting:
            if self._running is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=loop.run_forever, name="headrace-client", daemon=True
                )
                thread.start()
                self._running = loop, thread
            return self._running


def _result(ended: futures.Future[T], thread: threading.Thread) -> T:
    # A Ctrl-C that comes just before a wait begins is noticed when the wait ends: so it ends often.
    while True:
        try:
            return ended.result(_GLANCE)
        except TimeoutError:
            if ended.done():
                return ended.result()
            if not thread.is_alive():
                raise RuntimeError("the client was closed meanwhile") from None


def _settle(ended: futures.Future[T], task: asyncio.Task[T]) -> None:
    """Hands a task's outcome to another thread."""
    if task.cancelled():
        ended.set_exception(RuntimeError("the client was closed meanwhile"))
    elif error := task.exception():
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


async def _next(source: AsyncIterator[T]) -> Any:
    return await anext(source, _END)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


class Blocking(Generic[A]):
    """The synchronous face of `inner`, which lives in the loop of `thread`."""

    def __init__(self, inner: A, thread: LoopThread) -> None:
        self._inner = inner
        self._thread = thread


# These make a synchronous method of an asynchronous one, with the same signature and documentation,
# so that the two can never differ.


def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[A], P], T]:
    """Of a coroutine method, one that waits for it."""

    @functools.wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(method(self._inner, *args, **kwargs))

    return call


def iterating(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[Blocking[A], P], Generator[T, None, None]]:
    """Of a method that returns an asynchronous iterator, a generator."""

    @functools.wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return self._thread.iterate(method(self._inner, *args, **kwargs))

    return call


def wrapping(
    wrap: Callable[[T, LoopThread], W],
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[A], P], W]:
    """Of a coroutine method, one that waits for it and wraps what it returns."""

    @functools.wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> W:
        return wrap(self._thread.run(method(self._inner, *args, **kwargs)), self._thread)

    return call
