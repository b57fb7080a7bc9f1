"""Arguments and options that several commands share, and the parsers of their values."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from cyclopts import Parameter, Token

from headrace import JobState
from headrace.cli.completion import complete_queues, complete_states, complete_types
from headrace.cli.usage import UsageError

# curl's syntax for stdin. `run` replaces a lone hyphen with this, because the parser would read the
# hyphen as an option.
STDIN: Final = "@-"
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def duration(text: str) -> timedelta:
    """Parse a duration: `90`, `90s`, `1.5m`, `1h30m` or `500ms`. The default unit is seconds.

    Raises:
        ValueError: `text` is not a duration.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return timedelta(seconds=float(text))
    if not re.fullmatch(f"({_DURATION_PART.pattern})+", text):
        raise ValueError(f'"{text}" is not a duration; use 90, 90s, 1.5m or 1h30m')
    return timedelta(
        seconds=sum(
            float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(text)
        )
    )


def moment(text: str) -> datetime:
    """Parse an ISO 8601 time; without a time zone it is local time.

    Raises:
        ValueError: `text` is not a time.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'"{text}" is not a time; use for example 2026-11-30T18:00') from None
    return time if time.tzinfo else time.astimezone()


def moment_or_duration(text: str) -> datetime:
    """Parse an ISO 8601 time, or a duration from now.

    Raises:
        ValueError: `text` is neither a time nor a duration.
    """
    try:
        return datetime.now(UTC) + duration(text)
    except ValueError:
        return moment(text)


def labels(pairs: Sequence[str] | None) -> dict[str, str]:
    """Parse `key=value` pairs.

    Raises:
        UsageError: a pair is malformed.
    """
    found = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f'"{pair}" is not a label; use key=value')
        found[key] = value
    return found


def states(names: Iterable[str] | None) -> list[JobState]:
    """Parse job states, in upper or lower case.

    Raises:
        UsageError: a state is unknown.
    """
    known = [state for state in JobState if state is not JobState.UNKNOWN]
    found = []
    for name in names or ():
        if name.upper() not in known:
            choices = ", ".join(state.lower() for state in known)
            raise UsageError(f'"{name}" is not a job state; use one of {choices}')
        found.append(JobState(name.upper()))
    return found


def payload(text: str | None) -> Any:
    """Read a payload: JSON, `@file`, or `@-` for stdin; return None for None.

    Raises:
        UsageError: the payload cannot be read or is not JSON.
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
        raise UsageError(f"cannot read the payload: {error}") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"the payload is not valid JSON: {error}") from error


def job_filter(
    text: str,
    *,
    states: Sequence[str],
    queues: Sequence[str],
    types: Sequence[str],
    labels: Mapping[str, str],
) -> str:
    """Return the `ListJobs` filter that combines `text` and the options with AND."""
    clauses = [
        text.strip(),
        _any_of("state", states),
        _any_of("queue", map(_quoted, queues)),
        _any_of("type", map(_quoted, types)),
        *(f"labels.{key} = {_quoted(value)}" for key, value in labels.items()),
    ]
    return " AND ".join(clause for clause in clauses if clause)


def _any_of(field: str, values: Iterable[str]) -> str:
    comparisons = [f"{field} = {value}" for value in values]
    if len(comparisons) > 1:
        return f"({' OR '.join(comparisons)})"
    return "".join(comparisons)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def moment_or_age(text: str) -> datetime:
    """Parse an ISO 8601 time, or a duration before now.

    Raises:
        ValueError: `text` is neither a time nor a duration.
    """
    try:
        return datetime.now(UTC) - duration(text)
    except ValueError:
        return moment(text)


def _duration(_: Any, tokens: Sequence[Token]) -> timedelta:
    return duration(tokens[0].value)


def _moment(_: Any, tokens: Sequence[Token]) -> datetime:
    return moment(tokens[0].value)


def _moment_or_age(_: Any, tokens: Sequence[Token]) -> datetime:
    return moment_or_age(tokens[0].value)


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
PastMomentOption: TypeAlias = Annotated[
    datetime | None, Parameter(converter=_moment_or_age, n_tokens=1, metavar="TIME|AGE")
]
# A repeatable option.
Repeated: TypeAlias = list[str] | None
# Job filters.
QueuesOption: TypeAlias = Annotated[
    Repeated,
    Parameter(name="--queue", completer=complete_queues, help="Match this queue; repeatable."),
]
TypesOption: TypeAlias = Annotated[
    Repeated,
    Parameter(name="--type", completer=complete_types, help="Match this job type; repeatable."),
]
StatesOption: TypeAlias = Annotated[
    Repeated,
    Parameter(
        name="--state",
        completer=complete_states,
        help="Match events that lead to this state; repeatable.",
    ),
]
LabelsOption: TypeAlias = Annotated[
    Repeated,
    Parameter(name=["--label", "-l"], help="Require this label, key=value; repeatable."),
]
BatchOption: TypeAlias = Annotated[
    str | None, Parameter(name="--batch", help="Match the jobs of this batch.")
]
Flag: TypeAlias = Annotated[bool, Parameter(show_default=False)]
