"""What is written on the command line, read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from cyclopts import Parameter, Token

from headrace import JobState
from headrace.cli.session import UsageError

# curl's. A lone hyphen does as well, but looks like an option to the parser.
STDIN: Final = "@-"
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def duration(text: str) -> timedelta:
    """`90`, `90s`, `1.5m`, `1h30m`, `500ms`; a bare number is seconds.

    Raises:
        ValueError: it is something else.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return timedelta(seconds=float(text))
    if not re.fullmatch(f"({_PART.pattern})+", text):
        raise ValueError(f'"{text}" is no duration; write it as 90, 90s, 1.5m or 1h30m')
    return timedelta(
        seconds=sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    )


def moment(text: str) -> datetime:
    """A time in ISO 8601, in this machine's time zone unless it says one.

    Raises:
        ValueError: it is something else.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'"{text}" is no time; write it as 2026-11-30T18:00') from None
    return time if time.tzinfo else time.astimezone()


def moment_or_duration(text: str) -> datetime:
    """A time in ISO 8601, or a duration from now.

    Raises:
        ValueError: it is something else.
    """
    try:
        return datetime.now(UTC) + duration(text)
    except ValueError:
        return moment(text)


def labels(pairs: Sequence[str] | None) -> dict[str, str]:
    """`key=value` pairs.

    Raises:
        UsageError: one of them is none.
    """
    found = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f'"{pair}" is no label; write it as key=value')
        found[key] = value
    return found


def states(names: Iterable[str] | None) -> list[JobState]:
    """States, in capitals or not.

    Raises:
        UsageError: one of them is none.
    """
    known = [state for state in JobState if state is not JobState.UNKNOWN]
    found = []
    for name in names or ():
        if name.upper() not in known:
            choices = ", ".join(state.lower() for state in known)
            raise UsageError(f'"{name}" is no state; choose from {choices}')
        found.append(JobState(name.upper()))
    return found


def payload(text: str | None) -> Any:
    """A payload: JSON, `@file`, or `@-` for stdin; None when there is none.

    Raises:
        UsageError: it cannot be read or is no JSON.
    """
    if text is None:
        return None
    try:
        if text == STDIN:
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the payload cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"the payload is no JSON: {error}") from error


def _duration(_: Any, tokens: Sequence[Token]) -> timedelta:
    return duration(tokens[0].value)


def _moment(_: Any, tokens: Sequence[Token]) -> datetime:
    return moment(tokens[0].value)


def _moment_or_duration(_: Any, tokens: Sequence[Token]) -> datetime:
    return moment_or_duration(tokens[0].value)


DurationOption: TypeAlias = Annotated[
    timedelta | None, Parameter(converter=_duration, n_tokens=1, metavar="DURATION")
]
MomentOption: TypeAlias = Annotated[
    datetime | None, Parameter(converter=_moment, n_tokens=1, metavar="TIME")
]
MomentOrDurationOption: TypeAlias = Annotated[
    datetime | None, Parameter(converter=_moment_or_duration, n_tokens=1, metavar="TIME|DURATION")
]
# An option that may be repeated.
Repeated: TypeAlias = list[str] | None
# The filter of a watch or a subscription.
QueuesOption: TypeAlias = Annotated[
    Repeated, Parameter(name="--queue", help="Any of these queues; repeatable.")
]
TypesOption: TypeAlias = Annotated[
    Repeated, Parameter(name="--type", help="Any of these types; repeatable.")
]
StatesOption: TypeAlias = Annotated[
    Repeated,
    Parameter(name="--state", help="Events that lead to any of these states; repeatable."),
]
LabelsOption: TypeAlias = Annotated[
    Repeated, Parameter(name=["--label", "-l"], help="key=value; all of them; repeatable.")
]
BatchOption: TypeAlias = Annotated[
    str | None, Parameter(name="--batch", help="The jobs of this batch.")
]
Flag: TypeAlias = Annotated[bool, Parameter(show_default=False)]
