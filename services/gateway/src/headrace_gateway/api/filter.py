"""The filter language of ListJobs, a subset of AIP-160 (https://google.aip.dev/160).

filter     = clause { AND clause }
clause     = comparison | "(" comparison { OR comparison } ")"      (of one field)
comparison = field operator value
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, NoReturn, TypeAlias
from uuid import UUID

from headrace_core.domain.errors import InvalidRequest, Violation
from headrace_core.domain.ids import parse_id
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.limits import (
    LABEL_KEY_RULE,
    LABEL_VALUE_RULE,
    MAX_REQUEST_ID,
    NAME_RULE,
    is_label_key,
    is_label_value,
    is_name,
)
from headrace_core.domain.query import Clause, Comparison, Query

MAX_FILTER_LENGTH: Final = 4096
MAX_COMPARISONS: Final = 50

Value: TypeAlias = str | int | datetime | JobState | UUID


def parse_filter(text: str) -> Query:
    """Parse a filter; an empty filter matches every job.

    Raises:
        InvalidRequest: the filter is invalid; the violation of `filter` names the position and the
            valid continuations.
    """
    if len(text) > MAX_FILTER_LENGTH:
        raise InvalidRequest(
            [Violation("filter", f"must have at most {MAX_FILTER_LENGTH} characters")]
        )
    return _Parser(text).query()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int


_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<operator><=|>=|!=|=|<|>|:)
    | (?P<open>\()
    | (?P<close>\))
    | (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<star>\*)
    | (?P<word>[A-Za-z0-9_.+\-]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_END = "end"


class _Parser:
    """A recursive descent parser of one filter."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._scan()
        self._next = 0
        self._comparisons = 0

    def query(self) -> Query:
        clauses: list[Clause] = []
        if self._peek().kind == _END:
            return ()
        while True:
            clauses.append(self._clause())
            token = self._take()
            if token.kind == _END:
                return tuple(clauses)
            if not _is_word(token, "AND"):
                if _is_word(token, "OR"):
                    self._fail(token, "alternatives need parentheses: (state = A OR state = B)")
                self._fail(token, "expected AND or the end")

    def _clause(self) -> Clause:
        if self._peek().kind != "open":
            return (self._comparison(),)
        self._take()
        alternatives = [self._comparison()]
        while True:
            token = self._take()
            if token.kind == "close":
                return tuple(alternatives)
            if not _is_word(token, "OR"):
                self._fail(token, "expected OR or )")
            start = self._peek()
            alternative = self._comparison()
            if (alternative.field, alternative.key) != (alternatives[0].field, alternatives[0].key):
                self._fail(start, "alternatives must have the same field")
            alternatives.append(alternative)

    def _comparison(self) -> Comparison:
        name = self._take()
        if name.kind != "word" or name.text in ("AND", "OR"):
            self._fail(name, f"expected a field: {_FIELD_NAMES}")
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            self._fail(name, f"at most {MAX_COMPARISONS} comparisons are allowed")
        field, _, key = name.text.partition(".")
        if field == "labels" and key:
            return self._label_comparison(name, key)
        known = _FIELDS.get(name.text)
        if known is None:
            self._fail(name, f"unknown field {name.text[:100]!r}; use one of {_FIELD_NAMES}")
        operator = self._operator(known.operators)
        value = self._take()
        if value.kind not in known.kinds:
            self._fail(value, f"{name.text} must be compared with {known.rule}")
        try:
            return Comparison(
                field=name.text, operator=operator, value=known.read(self._content(value))
            )
        except (ValueError, OverflowError):
            self._fail(value, f"{name.text} must be compared with {known.rule}")

    def _label_comparison(self, name: _Token, key: str) -> Comparison:
        if not is_label_key(key):
            self._fail(name, f"a label key {LABEL_KEY_RULE}")
        operator = self._operator(("=", "!=", ":"))
        value = self._take()
        if operator == ":":
            if value.kind != "star":
                self._fail(value, f"expected * after labels.{key}:")
            return Comparison(field="labels", operator=":", value="*", key=key)
        if value.kind not in _WORDS:
            self._fail(value, f"labels.{key} must be compared with a string")
        content = self._content(value)
        if not is_label_value(content):
            self._fail(value, f"a label value {LABEL_VALUE_RULE}")
        return Comparison(field="labels", operator=operator, value=content, key=key)

    def _operator(self, allowed: tuple[str, ...]) -> str:
        token = self._take()
        if token.kind != "operator" or token.text not in allowed:
            self._fail(token, f"expected one of {' '.join(allowed)}")
        return token.text

    def _content(self, token: _Token) -> str:
        """Return the text of a value: a word, or the content of a quoted string."""
        if token.kind == "word":
            return token.text
        content = re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in content):
            self._fail(token, "a string must not contain NUL or a lone surrogate")
        return content

    def _scan(self) -> list[_Token]:
        tokens = []
        position = 0
        while position < len(self._text):
            match = _TOKEN.match(self._text, position)
            if match is None:
                unclosed = self._text[position] in "\"'"
                self._fail(
                    _Token("", self._text[position], position),
                    "the string has no closing quote" if unclosed else "strings need double quotes",
                )
            kind = match.lastgroup or ""
            if kind != "space":
                tokens.append(_Token(kind, match.group(), position))
            position = match.end()
        return [*tokens, _Token(_END, "", len(self._text))]

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        # The last token marks the end; taking it repeatedly is allowed.
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _fail(self, token: _Token, problem: str) -> NoReturn:
        place = "at the end" if token.kind == _END else f"at character {token.position + 1}"
        raise InvalidRequest([Violation("filter", f"{place}: {problem}")])


def _is_word(token: _Token, word: str) -> bool:
    return token.kind == "word" and token.text == word


def _parse_state(text: str) -> JobState:
    try:
        return JobState[text.removeprefix("JOB_STATE_")]
    except KeyError:
        raise ValueError from None


def _parse_name(text: str) -> str:
    if not is_name(text):
        raise ValueError
    return text


def _parse_request_id(text: str) -> str:
    if not 1 <= len(text) <= MAX_REQUEST_ID or not text.isprintable():
        raise ValueError
    return text


def _integer_parser(bits: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,10}", text):
            raise ValueError
        value = int(text)
        # PostgreSQL cannot compare the column with larger numbers.
        if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
            raise ValueError
        return value

    return read


def _parse_time(text: str) -> datetime:
    if not re.fullmatch(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
        r"([Zz]|[+-][0-9]{2}:[0-9]{2})",
        text,
    ):
        raise ValueError
    return datetime.fromisoformat(text.upper()).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class _Field:
    read: Callable[[str], Value]
    operators: tuple[str, ...]
    kinds: tuple[str, ...]
    rule: str


_EQUALITY = ("=", "!=")
_ORDER = ("<", "<=", ">", ">=")
_WORDS = ("word", "quoted")

_NAME = _Field(_parse_name, _EQUALITY, _WORDS, f"a name, which {NAME_RULE}")
_REQUEST_ID = _Field(
    _parse_request_id, _EQUALITY, _WORDS, f"a string of 1 to {MAX_REQUEST_ID} printable characters"
)
_UUID = _Field(parse_id, _EQUALITY, _WORDS, "a UUID")
_TIME = _Field(
    _parse_time, _ORDER, ("quoted",), 'an RFC 3339 time in quotes, "2026-11-01T00:00:00Z"'
)

_FIELDS: Final = {
    "state": _Field(
        _parse_state, _EQUALITY, _WORDS, f"one of {', '.join(s.name for s in JobState)}"
    ),
    "type": _NAME,
    "queue": _NAME,
    "request_id": _REQUEST_ID,
    "batch_id": _UUID,
    # With an order, a range of ids finds the jobs whose ids begin with the same digits.
    "id": replace(_UUID, operators=_EQUALITY + _ORDER),
    "worker_id": _UUID,
    "priority": _Field(_integer_parser(16), _EQUALITY + _ORDER, ("word",), "a 16-bit integer"),
    "attempt": _Field(_integer_parser(32), _EQUALITY + _ORDER, ("word",), "a 32-bit integer"),
    "create_time": _TIME,
    "schedule_time": _TIME,
    "start_time": _TIME,
    "end_time": _TIME,
}
_FIELD_NAMES: Final = f"{', '.join(_FIELDS)}, labels.KEY"
