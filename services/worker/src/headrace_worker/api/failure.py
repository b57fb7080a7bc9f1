"""The message and the stack trace of a handler's exception, for the log and the job.

Neither contains payloads. Validation errors quote the rejected value, so each one in a chain of
exceptions is reduced to its path and rule. Stack traces contain source lines, but no variables.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import msgspec

from headrace_core.domain.job import JobError
from headrace_core.domain.limits import MAX_ERROR_MESSAGE, MAX_STACK_TRACE
from headrace_core.domain.text import clean_line, clean_text
from headrace_worker.api.errors import InvalidPayload

# Maximum lengths in characters of a source line, a path and a message.
_MAX_SOURCE: Final = 160
_MAX_PATH: Final = 200
_MAX_MESSAGE: Final = 500
# Maximum numbers of frames shown per exception: outermost frames, innermost frames, and the
# handler's own frames in between.
_MAX_OUTER: Final = 10
_MAX_INNER: Final = 10
_MAX_BETWEEN: Final = 10
# Maximum numbers of exceptions in a chain, group members, nested groups and validation problems.
_MAX_CHAIN: Final = 8
_MAX_MEMBERS: Final = 5
_MAX_DEPTH: Final = 3
_MAX_PROBLEMS: Final = 20

_CAUSE: Final = "The above exception was the direct cause of the following exception:"
_CONTEXT: Final = "During handling of the above exception, another exception occurred:"
_LEFT_OUT_NOTE: Final = "(earlier exceptions left out)"

_WORKER: Final = str(Path(__file__).parent.parent) + "/"
_STANDARD_LIBRARY: Final = str(Path(traceback.__file__).parent) + "/"
_PACKAGES: Final = ("/site-packages/", "/dist-packages/")

_TRACE_ATTRIBUTE: Final = "_headrace_stack_trace"

# A pydantic error in the text of another exception: the parts before and after the quoted value. A
# single expression would take cubic time on a hostile text and block the event loop.
_QUOTE: Final = re.compile(r"\[type=(\w+), input_value=")
_END_OF_QUOTE: Final = re.compile(r", input_type=[\w.]+\]")
# The message of a handler's own validator can have several lines.
_MULTILINE_RULE: Final = re.compile(r"Value error, |Assertion failed, ")
# msgspec quotes only values that are not members of an enum or a Literal.
_UNKNOWN_VALUE: Final = re.compile(r"(Invalid (?:enum )?value) (?:'[^'\n]*'|-?\d+)")
# Context keys that are safe in a pydantic message; other keys could quote the value.
_SAFE_CONTEXT: Final = frozenset(
    {
        "actual_length",
        "class",
        "class_name",
        "decimal_places",
        "discriminator",
        "expected",
        "expected_schemes",
        "expected_tags",
        "expected_version",
        "field_type",
        "ge",
        "gt",
        "le",
        "lt",
        "max_digits",
        "max_length",
        "min_length",
        "multiple_of",
        "pattern",
        "whole_digits",
    }
)


class _Frame(NamedTuple):
    path: str
    line: int
    name: str


def describe(error: BaseException) -> str:
    """Return the message of a handler's exception, without rejected values.

    If the exception class itself raises, even SystemExit, the message is empty.
    """
    try:
        text = _rules(error)
        if text is None:
            text = str(error)[: 4 * MAX_ERROR_MESSAGE]
            if "input_value=" in text:
                text = _without_values(text)
        return _UNKNOWN_VALUE.sub(r"\1", text)
    except BaseException:  # noqa: BLE001 - the handler's class decides what it raises
        return ""


def stack_trace(error: BaseException) -> str:
    """Return the stack trace of a handler's exception with its causes, at most 16 KiB.

    The trace omits the worker's frames above the handler. The raised exception is last, as in
    Python, and is truncated last. If no frame belongs to a handler, the result is empty.
    """
    try:
        attached = getattr(error, _TRACE_ATTRIBUTE, None)
        # The attribute of a handler's exception class may have any type.
        return attached if isinstance(attached, str) else _render(error)
    except BaseException:  # noqa: BLE001 - the handler's class decides what it raises
        return ""


def attach_stack_trace(error: BaseException, text: str) -> None:
    """Attach a stack trace from another process or thread to `error`."""
    setattr(error, _TRACE_ATTRIBUTE, text)


def thread_stack(ident: int | None) -> str:
    """Return the stack of a handler's thread; empty if the thread has ended."""
    frame = sys._current_frames().get(ident or 0)  # noqa: SLF001 - required to read its frames
    if frame is None:
        return ""
    frames = [_frame_of(frame, line) for frame, line in traceback.walk_stack(frame)][::-1]
    first = next(
        (place for place, frame in enumerate(frames) if _belongs_to_worker(frame.path)), -1
    )
    lines = ["Stack of the handler's thread (most recent call last):"]
    return clean_text("\n".join([*lines, *_frame_lines(frames[first + 1 :])]), MAX_STACK_TRACE)


def error_fields(error: JobError) -> dict[str, str]:
    """Return the fields that describe the error of a failed attempt in a log line.

    Only the first line of a message is included, because the other lines of a database
    error quote rows.
    """
    facts = {
        "error_type": error.type,
        "error": clean_line(error.message.partition("\n")[0], _MAX_MESSAGE),
        "stack_trace": error.stack_trace,
    }
    return {name: value for name, value in facts.items() if value}


# Messages.


def _rules(error: BaseException) -> str | None:
    """Return the paths and rules of a validation error; None for any other exception."""
    if isinstance(error, msgspec.ValidationError):
        return _msgspec_rule(error)
    # pydantic is imported only if a handler uses it.
    pydantic = sys.modules.get("pydantic_core")
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        return "; ".join(_pydantic_rules(error))
    return None


def _without_values(text: str) -> str:
    """Return a text in which each pydantic error is reduced to its type."""
    parts: list[str] = []
    start = 0
    while quote := _QUOTE.search(text, start):
        before = text[start : quote.start()]
        line = before.rfind("\n") + 1
        rule = _MULTILINE_RULE.search(before)
        parts += [before[: min(line, rule.start()) if rule else line], f"[{quote[1]}]"]
        start = _end_of_quote(text, quote.end())
    return "".join([*parts, text[start:]])


def _end_of_quote(text: str, start: int) -> int:
    """Return the end of a quoted value: the last end marker in its line, otherwise the next one."""
    line_end = text.find("\n", start)
    if line_end < 0:
        line_end = len(text)
    if ends := [end.end() for end in _END_OF_QUOTE.finditer(text, start, line_end)]:
        return ends[-1]
    end = _END_OF_QUOTE.search(text, start)
    # A truncated text may have no end marker.
    return end.end() if end else len(text)


def _msgspec_rule(error: msgspec.ValidationError) -> str:
    rule, _, path = str(error).rpartition(" - at ")
    rule, path = (rule, path) if rule else (path, "")
    if error.__cause__ is not None and not isinstance(error.__cause__, InvalidPayload):
        # A hook in the handler's code raised the error.
        rule = type(error.__cause__).__name__
    return f"{rule} - at {path}" if path else rule


def _pydantic_rules(error: Any) -> Iterator[str]:
    known = _pydantic_types()
    problems: Sequence[Any] = error.errors(include_url=False, include_input=False)
    for problem in problems[:_MAX_PROBLEMS]:
        kind = problem["type"]
        context = problem.get("ctx", {})
        is_safe = kind in known and context.keys() <= _SAFE_CONTEXT
        rule = problem["msg"] if is_safe else kind
        if isinstance(context.get("error"), InvalidPayload):
            rule = str(context["error"])
        path = ".".join(clean_line(str(part), 100) for part in problem["loc"])
        yield f"{path}: {rule}" if path else rule
    if len(problems) > _MAX_PROBLEMS:
        yield f"and {len(problems) - _MAX_PROBLEMS} more"


def _pydantic_types() -> frozenset[str]:
    """Return pydantic's own error types; a validator may raise errors of other types."""
    from pydantic_core import core_schema  # noqa: PLC0415 - it has been imported

    return frozenset(typing.get_args(core_schema.ErrorType))


# Stack traces.


def _render(error: BaseException) -> str:
    sections: list[str] = []
    left = MAX_STACK_TRACE
    has_frames = False
    link = ""
    for part, link_to_next in _chain(error):
        frames = _frames(part)
        has_frames = has_frames or bool(frames)
        section = _section(part, frames, depth=0)
        if link:
            section = f"{section}\n\n{link}\n"
        size = len(section.encode(errors="replace")) + 1
        if size > left:
            if not sections:
                return clean_text(section, left // 4)
            sections.append(f"{_LEFT_OUT_NOTE}\n")
            break
        sections.append(section)
        # The first section reserves room for the note about left-out exceptions.
        left = left - size - (len(_LEFT_OUT_NOTE) + 2 if len(sections) == 1 else 0)
        link = link_to_next
    return clean_text("\n".join(reversed(sections)), MAX_STACK_TRACE) if has_frames else ""


def _chain(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """Yield the exception and its causes, each with the sentence that links it to the next one."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < _MAX_CHAIN:
        seen.add(id(current))
        if current.__cause__ is not None:
            yield current, _CAUSE
            current = current.__cause__
        elif current.__context__ is not None and not current.__suppress_context__:
            yield current, _CONTEXT
            current = current.__context__
        else:
            yield current, ""
            return


def _section(error: BaseException, frames: Sequence[_Frame], *, depth: int) -> str:
    lines = ["Traceback (most recent call last):", *_frame_lines(frames)] if frames else []
    lines.append(_headline(error))
    if isinstance(error, BaseExceptionGroup) and depth < _MAX_DEPTH:
        members = BaseExceptionGroup.exceptions.__get__(error)
        for number, member in enumerate(members[:_MAX_MEMBERS], start=1):
            lines.append(f"  ---- {number} of {len(members)} ----")
            text = _section(member, _frames(member), depth=depth + 1)
            if member.__cause__ is not None:
                cause = member.__cause__
                text = f"{_section(cause, _frames(cause), depth=_MAX_DEPTH)}\n{_CAUSE}\n{text}"
            lines += [f"  {line}" for line in text.splitlines()]
    return "\n".join(lines)


def _headline(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in {"builtins", "__main__"}:
        name = f"{kind.__module__}.{name}"
    message = clean_line(describe(error).partition("\n")[0], _MAX_MESSAGE)
    name = clean_line(name, _MAX_PATH)
    return f"{name}: {message}" if message else name


def _frames(error: BaseException) -> list[_Frame]:
    """Return the frames from the handler to the line that raised the exception."""
    frames = [_frame_of(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    first = 0
    while first < len(frames) and _belongs_to_worker(frames[first].path):
        first += 1
    return frames[first:]


def _frame_of(frame: FrameType, line: int) -> _Frame:
    return _Frame(frame.f_code.co_filename, line, frame.f_code.co_qualname)


def _frame_lines(frames: Sequence[_Frame]) -> Iterator[str]:
    shown = _shown_indexes(frames)
    before = -1
    for place in shown:
        if place > before + 1:
            yield f"  … {place - before - 1} frames left out"
        before = place
        path, line, name = frames[place]
        path = path if len(path) <= _MAX_PATH else f"…{path[1 - _MAX_PATH :]}"
        yield f'  File "{clean_line(path, _MAX_PATH)}", line {line}, in {clean_line(name, 100)}'
        if source := linecache.getline(frames[place].path, line).strip():
            yield f"    {clean_line(source, _MAX_SOURCE)}"


def _shown_indexes(frames: Sequence[_Frame]) -> Sequence[int]:
    """Return the indexes of the frames to show."""
    count = len(frames)
    if count <= _MAX_OUTER + _MAX_BETWEEN + _MAX_INNER:
        return range(count)
    own = Path(frames[0].path).parent
    between = [
        place
        for place in range(_MAX_OUTER, count - _MAX_INNER)
        if not is_library(frames[place].path) or Path(frames[place].path).parent == own
    ]
    return [*range(_MAX_OUTER), *between[-_MAX_BETWEEN:], *range(count - _MAX_INNER, count)]


def _belongs_to_worker(path: str) -> bool:
    return path.startswith(_WORKER)


def is_library(path: str) -> bool:
    """Return whether a source file belongs to the standard library or an installed package."""
    return path.startswith((_STANDARD_LIBRARY, "<frozen")) or any(
        folder in path for folder in _PACKAGES
    )
