"""The retention of ended jobs, by tenant and state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from headrace_core.domain.lifecycle import TERMINAL, JobState

# Retention by tenant and state. None means all tenants or all states.
Rules = Mapping[tuple[str | None, JobState | None], timedelta]

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
# A longer age could exceed PostgreSQL's range of times.
_MAX_AGE: Final = timedelta(days=36_500)
_STATES: Final = ", ".join(sorted(TERMINAL))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The time that jobs are kept after their end.

    Args:
        default: the time for jobs that match no rule.
        rules: the times by tenant and state. A rule for both takes precedence over a rule for the
            tenant, which takes precedence over a rule for the state.
    """

    default: timedelta
    rules: Rules = field(default_factory=dict)

    def of(self, tenant: str, state: JobState) -> timedelta:
        """Return the retention of a tenant's jobs that ended in a state."""
        for key in ((tenant, state), (tenant, None), (None, state)):
            if key in self.rules:
                return self.rules[key]
        return self.default


def parse_rules(text: str) -> Rules:
    """Parse rules such as `failed=30d, acme=3d, acme/failed=90d`.

    Args:
        text: rules, separated by commas. Each contains a terminal state, a tenant, or both, and an
            age: a number of seconds, or a number with s, m, h or d.

    Raises:
        ValueError: a rule is invalid; the message names it.
    """
    rules: dict[tuple[str | None, JobState | None], timedelta] = {}
    for rule in filter(None, (part.strip() for part in text.split(","))):
        scope, sign, age = (part.strip() for part in rule.partition("="))
        if not sign:
            raise ValueError(
                f"{rule!r} must be a state, a tenant or tenant/state, then = and an age"
            )
        key = _parse_key(rule, scope)
        if key in rules:
            raise ValueError(f"{scope!r} has two rules; remove one")
        rules[key] = _parse_age(rule, age)
    return rules


def _parse_key(rule: str, scope: str) -> tuple[str | None, JobState | None]:
    tenant, slash, name = (part.strip() for part in scope.partition("/"))
    if not slash and scope in set(JobState):
        tenant, name = "", scope
    elif not tenant or (slash and not name):
        raise ValueError(f"{rule!r} must name a state, a tenant or tenant/state")
    if not name:
        return tenant, None
    if name not in TERMINAL:
        raise ValueError(f"{rule!r}: {name!r} is not a terminal state; use one of {_STATES}")
    return tenant or None, JobState(name)


def _parse_age(rule: str, age: str) -> timedelta:
    match = _AGE.fullmatch(age)
    if match is None:
        raise ValueError(f"{rule!r}: {age!r} must be a number, optionally with s, m, h or d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= _MAX_AGE.total_seconds():
        raise ValueError(f"{rule!r}: {age!r} must be more than 0 and at most {_MAX_AGE.days}d")
    return timedelta(seconds=seconds)
