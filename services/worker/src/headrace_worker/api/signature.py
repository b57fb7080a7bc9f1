"""Check a handler's signature: a payload and an optional context."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def code_of(function: Callable[..., Any]) -> CodeType:
    """Return the code object of a function or, for a wrapper, of the wrapped function."""
    assert isinstance(function, FunctionType | MethodType)
    wrapped = inspect.unwrap(function)
    while isinstance(wrapped, functools.partial):
        wrapped = inspect.unwrap(wrapped.func)
    code = getattr(wrapped, "__code__", None)
    # A callable object has no code object.
    return code if isinstance(code, CodeType) else function.__code__


def location_of(function: Callable[..., Any]) -> str:
    """Return the name, file and line of a function's definition."""
    code = code_of(function)
    name = f"{function.__module__}.{function.__qualname__}"
    return f"{name} ({code.co_filename}:{code.co_firstlineno})"


def frame_location(frame: FrameType) -> str:
    """Return the module, file and current line of a frame."""
    module = frame.f_globals.get("__name__")
    return f"{module} ({frame.f_code.co_filename}:{frame.f_lineno})"


def check_function(candidate: object, registers: FrameType) -> None:
    """Reject an object that the worker cannot call as a handler.

    Args:
        candidate: the object to register.
        registers: the frame that registers the object, which the error names if the object is not a
            function.

    Raises:
        TypeError: the object is not a function, or the function yields instead of returning.
    """
    if not isinstance(candidate, FunctionType | MethodType):
        place = frame_location(registers)
        if isinstance(candidate, functools.partial):
            kind = "a functools.partial"
        elif isinstance(candidate, type):
            kind = f"the class {candidate.__qualname__}"
        else:
            kind = f"an object of type {type(candidate).__qualname__}"
        raise TypeError(
            f"{place}: {kind} cannot be a handler; write a `def` or `async def` that calls it"
        )
    if inspect.isasyncgenfunction(candidate) or inspect.isgeneratorfunction(candidate):
        raise TypeError(
            f"{location_of(candidate)}: a handler cannot yield; emit output with `ctx.emit(…)` and "
            "return the result"
        )
    wrapped = inspect.unwrap(candidate)
    if inspect.iscoroutinefunction(wrapped) and not inspect.iscoroutinefunction(candidate):
        raise TypeError(
            f"{location_of(candidate)}: a plain `def` wraps this `async def`; write the wrapper as "
            "`async def` and await the function in it. If the wrapper itself runs the coroutine "
            "to completion, delete its `__wrapped__` attribute"
        )


def read_hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the types of a function's annotations.

    Raises:
        TypeError: an annotation contains an undefined name.
    """
    try:
        return typing.get_type_hints(function)
    except (NameError, AttributeError) as error:
        raise TypeError(
            f"{location_of(function)}: an annotation cannot be read: {error}; import or define the "
            "name in the module, and not only under `if TYPE_CHECKING:`"
        ) from error


def read_parameters(
    function: Callable[..., Any], hints: Mapping[str, Any], context: type
) -> tuple[str, bool]:
    """Return the name of the payload parameter, and whether the handler takes a context.

    Args:
        function: the handler.
        hints: the types in its annotations.
        context: the expected type of the context.

    Raises:
        TypeError: the parameters are not a payload and an optional context.
    """
    parameters = list(inspect.signature(function).parameters.values())
    names = [parameter.name for parameter in parameters]
    form = f"write `{_def_head(function)}(payload, ctx: {context.__name__})`, or omit `ctx`"
    if names[:1] in (["self"], ["cls"]):
        raise TypeError(f"{location_of(function)}: a method cannot be a handler; {form}")
    for parameter in parameters:
        if parameter.kind not in _POSITIONAL:
            raise TypeError(
                f"{location_of(function)}: the parameter `{parameter}` is not positional, but the "
                f"worker passes payload and context by position; {form}"
            )
    if not 1 <= len(parameters) <= 2:
        raise TypeError(
            f"{location_of(function)}: a handler takes its payload and an optional context, but "
            f"this one has {len(parameters)} parameters; {form}"
        )
    if len(names) == 1:
        return names[0], False
    hint = hints.get(names[1], context)
    if hint is not context:
        raise TypeError(
            f"{location_of(function)}: the second parameter must be a {context.__name__}, but is "
            f"annotated as {inspect.formatannotation(hint)}; {form}"
        )
    return names[0], True


def _def_head(function: Callable[..., Any]) -> str:
    keyword = "async def" if inspect.iscoroutinefunction(function) else "def"
    return f"{keyword} {function.__name__}"
