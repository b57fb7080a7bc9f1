"""Faults in each function of the store that the services call, with a rate and a seed.

Nothing in the services knows of it: their modules get another function under the same name, which
now and then has something happen to the call. What happens is real where it can be: statements are
cancelled while they run, connections are cut, commits take place before their callers are told
that they failed.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import pkgutil
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import cache, wraps
from types import ModuleType
from typing import Any, NamedTuple

import asyncpg
import pytest

from headrace_core.domain.errors import Unavailable
from headrace_core.store.sql.connection import Connection

_SERVICES = (
    "headrace_gateway",
    "headrace_health",
    "headrace_scheduler",
    "headrace_worker",
    "headrace_core.wake",
)
# Handlers know nothing of the store, and some need what is not installed everywhere.
_LEFT_OUT = ("headrace_handlers", ".__main__")
_STORE = "headrace_core.store."

# How long a slow call takes, when a call is cut off after its beginning, and how long a session of
# its own lasts, in seconds: from and to.
_SLOW_S = (0.05, 0.3)
_CUT_S = (0.0, 0.004)
_SESSION_S = (0.1, 0.5)


class Fault(StrEnum):
    """What may happen to a call."""

    FAILED_BEFORE = "failed before it ran"
    TIMED_OUT = "executed, but timed out"
    SLOW = "slow"
    CANCELLED = "cancelled while it ran"
    CONNECTION_LOST = "connection lost while it ran"


class Point(NamedTuple):
    """Where a module of a service has a function of the store."""

    module: ModuleType
    method: str


@cache
def points() -> tuple[Point, ...]:
    """Every place from which a service calls the store."""
    return tuple(
        Point(module, name)
        for module in _modules()
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__.startswith(_STORE)
        and inspect.iscoroutinefunction(value)
    )


def _modules() -> Iterator[ModuleType]:
    for name in _SERVICES:
        package = importlib.import_module(name)
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not any(part in found.name for part in _LEFT_OUT):
                yield importlib.import_module(found.name)


class FaultPoints:
    """Decides what happens to which call.

    Attributes:
        rate: the share of the calls that something happens to, 0 to 1. The first call of each
            method that is armed always meets a fault.
        met: how often each method has met each fault.

    Args:
        seed: decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.rate = 0.0
        self.met: Counter[tuple[str, Fault]] = Counter()
        self._chance = random.Random(seed)
        self._armed: Collection[str] = ()
        self._fresh: set[str] = set()
        self._changed = asyncio.Event()
        # Transactions whose commit is to be told as a failure.
        self._unheard: set[Connection] = set()

    @contextmanager
    def armed(self, methods: Collection[str], *, rate: float) -> Iterator[None]:
        """Has faults happen to calls of `methods` for the length of the block."""
        self.rate, self._armed, self._fresh = rate, methods, set(methods)
        try:
            yield
        finally:
            self._armed = ()

    async def have_met(self, methods: Collection[str], *, faults: int) -> None:
        """Waits until each of `methods` has met so many faults."""
        while any(self.faults_of(method) < faults for method in methods):
            self._changed.clear()
            await self._changed.wait()

    def faults_of(self, method: str) -> int:
        """How many faults a method has met."""
        return sum(self.met[method, fault] for fault in Fault)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts itself between the services and the store."""
        wrapped: dict[Any, Any] = {}
        for module, method in points():
            function = getattr(module, method)
            if function not in wrapped:
                wrapped[function] = self._wrap(function)
            monkeypatch.setattr(module, method, wrapped[function])
        commit = Connection.commit

        async def commit_unheard(connection: Connection) -> None:
            unheard = connection in self._unheard and connection._open
            self._unheard.discard(connection)
            await commit(connection)
            if unheard:
                raise TimeoutError

        monkeypatch.setattr(Connection, "commit", commit_unheard)

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        [first, *_] = inspect.signature(function).parameters.values()
        if first.annotation == "Connection":
            return self._wrap_statements(function)
        assert first.annotation == "Database", f"{function} takes neither"
        return self._wrap_session(function)

    def _wrap_statements(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        @wraps(function)
        async def call(connection: Connection, *args: Any, **options: Any) -> Any:
            match self._draw(function.__name__, tuple(Fault)):
                case None:
                    pass
                case Fault.FAILED_BEFORE:
                    raise asyncpg.ConnectionDoesNotExistError("it was lost before the call")
                case Fault.TIMED_OUT:
                    result = await function(connection, *args, **options)
                    if not connection._open:
                        raise TimeoutError
                    # Of a transaction it is the commit whose answer gets lost.
                    self._unheard.add(connection)
                    return result
                case Fault.SLOW:
                    await asyncio.sleep(self._chance.uniform(*_SLOW_S))
                case Fault.CANCELLED:
                    async with asyncio.timeout(self._chance.uniform(*_CUT_S)):
                        return await function(connection, *args, **options)
                case Fault.CONNECTION_LOST:
                    cut = asyncio.get_running_loop().call_later(
                        self._chance.uniform(*_CUT_S), connection._driver._transport.abort
                    )
                    try:
                        return await function(connection, *args, **options)
                    finally:
                        cut.cancel()
            return await function(connection, *args, **options)

        return call

    def _wrap_session(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """For what has a connection of its own for as long as it lasts."""
        name = function.__name__
        kinds = (Fault.FAILED_BEFORE, Fault.SLOW, Fault.CONNECTION_LOST)

        async def last(*args: Any, **options: Any) -> Any:
            fault = self._draw(name, kinds)
            if fault is Fault.FAILED_BEFORE:
                raise Unavailable("postgresql")
            if fault is Fault.SLOW:
                await asyncio.sleep(self._chance.uniform(*_SLOW_S))
            if fault is not Fault.CONNECTION_LOST:
                return await function(*args, **options)
            try:
                async with asyncio.timeout(self._chance.uniform(*_SESSION_S)):
                    return await function(*args, **options)
            except TimeoutError:
                raise Unavailable("postgresql") from None

        return last

    def _draw(self, method: str, kinds: tuple[Fault, ...]) -> Fault | None:
        if method not in self._armed:
            return None
        if method not in self._fresh and self._chance.random() >= self.rate:
            return None
        self._fresh.discard(method)
        fault = self._chance.choice(kinds)
        self.met[method, fault] += 1
        self._changed.set()
        return fault
