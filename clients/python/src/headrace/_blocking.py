"""Runs asynchronous objects for synchronous callers, on an event loop in its own thread."""

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
# Interval at which a waiting thread handles signals, in seconds.
_SIGNAL_INTERVAL: Final = 0.5
# Longest wait for cancelled work to end, in seconds.
_CANCEL_TIMEOUT: Final = 5.0


class LoopThread:
    """An event loop that runs in a daemon thread, from its first use until it is closed.

    A forked child does not have the thread and must not touch the loop, so it creates both again.
    """

    def __init__(self) -> None:
        self._closed = False
        self._reset()
        _process.register(self)

    def _reset(self) -> None:
        self._starting = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None

    def abandon(self) -> object:
        """Drop the loop in a forked child, because the parent uses the same sockets and epoll."""
        running = self._running
        self._reset()
        return running

    @property
    def closed(self) -> bool:
        return self._closed

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the loop and wait for its result; Ctrl-C cancels the work.

        Raises:
            RuntimeError: the loop is closed, or the caller runs in it.
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

        def start() -> None:
            nonlocal task
            task = loop.create_task(work)
            task.add_done_callback(functools.partial(_copy_result, ended))

        def interrupt() -> None:
            if task is not None:
                task.cancel()
            else:
                work.close()
                ended.set_exception(RuntimeError("interrupted before the call started"))

        try:
            loop.call_soon_threadsafe(start)
            return _wait_for_result(ended, thread)
        except BaseException:
            if not ended.done():
                # Ctrl-C interrupted only the wait. The work must end before the caller continues,
                # because the caller may close the generator that the work runs in.
                loop.call_soon_threadsafe(interrupt)
                futures.wait([ended], timeout=_CANCEL_TIMEOUT)
            raise

    def iterate(self, source: AsyncIterator[T]) -> Generator[T, None, None]:
        """Yield the items of `source`, then close `source`."""
        try:
            while True:
                item = self.run(_next_or_end(source))
                if item is _END:
                    return
                yield item
        finally:
            aclose = getattr(source, "aclose", None)
            # The thread is no longer running when the interpreter exits.
            running = self._running is not None and not sys.is_finalizing()
            if aclose is not None and running and not self._closed:
                self.run(aclose())

    def close(self) -> None:
        """Cancel all work of the loop, then stop the loop and its thread."""
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


def _wait_for_result(ended: futures.Future[T], thread: threading.Thread) -> T:
    # If Ctrl-C arrives just before a wait, Python handles it only when the wait ends, so each wait
    # is short.
    while True:
        try:
            return ended.result(_SIGNAL_INTERVAL)
        except TimeoutError:
            if ended.done():
                return ended.result()
            if not thread.is_alive():
                raise RuntimeError("the client was closed during the call") from None


def _copy_result(ended: futures.Future[T], task: asyncio.Task[T]) -> None:
    """Copy the result of a task to a future on which another thread waits."""
    if task.cancelled():
        ended.set_exception(RuntimeError("the client was closed during the call"))
    elif error := task.exception():
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


async def _next_or_end(source: AsyncIterator[T]) -> Any:
    return await anext(source, _END)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


class Blocking(Generic[A]):
    """The synchronous interface of `inner`, which runs in the loop of `thread`."""

    def __init__(self, inner: A, thread: LoopThread) -> None:
        self._inner = inner
        self._thread = thread


# The functions below derive a synchronous method from an asynchronous method, so the two always
# have the same signature and documentation.


def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[A], P], T]:
    """Return a method that waits for the coroutine of `method`."""

    @functools.wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(method(self._inner, *args, **kwargs))

    return call


def iterating(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[Blocking[A], P], Generator[T, None, None]]:
    """Return a generator method for a method that returns an asynchronous iterator."""

    @functools.wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return self._thread.iterate(method(self._inner, *args, **kwargs))

    return call


def wrapping(
    wrap: Callable[[T, LoopThread], W],
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[A], P], W]:
    """Return a method that waits for the coroutine of `method` and wraps its result."""

    @functools.wraps(method)
    def call(self: Blocking[A], /, *args: P.args, **kwargs: P.kwargs) -> W:
        return wrap(self._thread.run(method(self._inner, *args, **kwargs)), self._thread)

    return call
