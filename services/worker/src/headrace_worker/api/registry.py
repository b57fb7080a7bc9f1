"""The handler registry of this process, and the `@handler` decorator that adds to it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

from headrace_core.domain.handler import DEFAULT_TIMEOUT, HandlerSpec
from headrace_core.domain.job import DEFAULT_QUEUE, JsonText
from headrace_core.domain.limits import MAX_DURATION, NAME_RULE, is_name
from headrace_core.domain.retry import RetryPolicy
from headrace_worker.api.context import Context, SyncContext
from headrace_worker.api.payload import Decoder, payload_schema, schema
from headrace_worker.api.signature import (
    check_function,
    code_of,
    frame_location,
    location_of,
    read_hints,
    read_parameters,
)

F = TypeVar("F", bound=Callable[..., Any])

Mode = Literal["async", "thread", "process"]
# Bytes, or a function that returns them when an attempt starts.
MemoryLimit = int | Callable[[], int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredHandler:
    """A registered handler: its spec, its function, and how it runs."""

    spec: HandlerSpec
    function: Callable[..., Any]
    mode: Mode
    decode: Decoder
    takes_context: bool
    memory_limit: MemoryLimit = None

    @property
    def is_async(self) -> bool:
        """True if the handler is an `async def`."""
        return inspect.iscoroutinefunction(self.function)


class Registry:
    """Handlers by type."""

    def __init__(self) -> None:
        self._handlers: dict[str, RegisteredHandler] = {}

    def add(self, registered: RegisteredHandler) -> None:
        """Add a handler. A module that is imported again replaces its handlers.

        Raises:
            ValueError: another function is already registered for the type.
        """
        name = registered.spec.type
        other = self._handlers.get(name)
        if other is not None and not _is_reloaded(other.function, registered.function):
            raise ValueError(
                f"two handlers for the type {name!r}: {location_of(other.function)} and "
                f"{location_of(registered.function)}; give each handler its own type"
            )
        self._handlers[name] = registered

    def get(self, job_type: str) -> RegisteredHandler | None:
        """Return the handler of a type, or None."""
        return self._handlers.get(job_type)

    def __iter__(self) -> Iterator[RegisteredHandler]:
        return iter(sorted(self._handlers.values(), key=lambda h: h.spec.type))

    def __len__(self) -> int:
        return len(self._handlers)


registry = Registry()


def handler(
    job_type: str,
    *,
    queue: str = DEFAULT_QUEUE,
    timeout: timedelta | float = DEFAULT_TIMEOUT,
    retry: RetryPolicy | None = None,
    isolation: Literal["auto", "process"] = "auto",
    memory_limit: MemoryLimit = None,
) -> Callable[[F], F]:
    """Register a function as the handler of a job type.

    The function takes the payload and optionally a context. The payload is a msgspec Struct, a
    pydantic model, or any other type that msgspec decodes. The JSON Schemas are generated from the
    annotations. The description is the first paragraph of the docstring.

    An `async def` runs in the worker's event loop, and a `def` in a thread. With
    `isolation="process"`, both run in a separate process, which a timeout or a cancellation kills.
    A job that has lost its worker twice also runs in a process, because it may have killed the
    worker.

    Args:
        job_type: the type: 1 to 100 characters from a-z, 0-9, `_`, `-`, `.`.
        queue: the default queue for jobs of this type.
        timeout: the default time limit of an attempt, in seconds or as a timedelta.
        retry: the default retry policy.
        isolation: `process`, or `auto` for the loop or a thread.
        memory_limit: the memory limit of the handler's process in bytes, or a function that returns
            it. A job that exceeds it fails with `MemoryLimitExceeded` and is not retried.
            Requires `isolation="process"` and Linux.

    Raises:
        TypeError: the function cannot be a handler. The message contains its location and a valid
            signature.
        ValueError: a name is malformed, the type is already registered, or the timeout is out of
            range.
    """
    if callable(job_type):
        place = frame_location(sys._getframe(1))  # noqa: SLF001 - documented
        raise TypeError(f'{place}: `@handler` needs a job type; write `@handler("type")`')
    for name in (job_type, queue):
        if not is_name(name):
            raise ValueError(f"{name!r} is not a valid name: it {NAME_RULE}")

    if memory_limit is not None and isolation != "process":
        raise ValueError(f'the memory_limit of {job_type!r} requires isolation="process"')
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    # NaN fails this comparison.
    if not 0 < seconds <= MAX_DURATION.total_seconds():
        raise ValueError(
            f"the timeout of {job_type!r} is {seconds:g} s; it must be positive and at most "
            f"{MAX_DURATION.days} days"
        )
    limit = timedelta(seconds=seconds)

    def register(function: F) -> F:
        check_function(function, sys._getframe(1))  # noqa: SLF001 - documented
        registry.add(
            _inspect(
                function,
                job_type=job_type,
                queue=queue,
                timeout=limit,
                retry=retry or RetryPolicy(),
                isolation=isolation,
                memory_limit=memory_limit,
            )
        )
        return function

    return register


def _inspect(
    function: Callable[..., Any],
    *,
    job_type: str,
    queue: str,
    timeout: timedelta,
    retry: RetryPolicy,
    isolation: str,
    memory_limit: MemoryLimit,
) -> RegisteredHandler:
    is_async = inspect.iscoroutinefunction(function)
    hints = read_hints(function)
    payload, context = read_parameters(function, hints, Context if is_async else SyncContext)
    payload_type = hints.get(payload, Any)
    result_type = hints.get("return", Any)
    mode: Mode = "async" if is_async else "thread"
    return RegisteredHandler(
        spec=HandlerSpec(
            type=job_type,
            queue=queue,
            description=(inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " "),
            payload_schema=_schema_of(payload_type, function, payload_schema),
            result_schema=_schema_of(result_type, function, schema),
            timeout=timeout,
            retry=retry,
        ),
        function=function,
        mode="process" if isolation == "process" else mode,
        decode=Decoder(payload_type),
        takes_context=context,
        memory_limit=memory_limit,
    )


def _schema_of(
    annotation: Any, function: Callable[..., Any], write: Callable[[Any], JsonText]
) -> JsonText:
    try:
        return write(annotation)
    except TypeError as error:
        raise TypeError(f"{location_of(function)}: {error}") from error


def _is_reloaded(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Return whether `new` is the definition of `old`, whose module or notebook cell ran again."""
    if (old.__module__, old.__qualname__) != (new.__module__, new.__qualname__):
        return False
    before, after = code_of(old), code_of(new)
    # Each notebook cell has its own file name.
    return bool(
        before.co_filename != after.co_filename or before.co_firstlineno == after.co_firstlineno
    )
