"""For how long what has ended is kept: a time for all, and rules for some tenants and states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from headrace_core.domain.lifecycle import TERMINAL, JobState

# By tenant and state; None: all of them.
Rules = Mapping[tuple[str | None, JobState | None], timedelta]

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
# Further back than this PostgreSQL's calendar may end.
_LONGEST: Final = timedelta(days=36_500)
_STATES: Final = ", ".join(sorted(TERMINAL))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """For how long jobs are kept once they have ended.

    Args:
        default: for all that no rule names.
        rules: for those of a tenant that have ended in a state, of a tenant, or in a state. In this
            order one goes over the next.
    """

    default: timedelta
    rules: Rules = field(default_factory=dict)

    def of(self, tenant: str, state: JobState) -> timedelta:
        """For how long a tenant's jobs are kept that have ended in this state."""
        for key in ((tenant, state), (tenant, None), (None, state)):
            if key in self.rules:
                return self.rules[key]
        return self.default


def parse_rules(text: str) -> Rules:
    """Reads rules as they are written: `failed=30d, acme=3d, acme/failed=90d`.

    Args:
        text: rules with commas between them. Each is a terminal state, a tenant, or both, and an
            age: a number of seconds, or one with s, m, h or d.

    Raises:
        ValueError: it says which rule is wrong, and how.
    """
    rules: dict[tuple[str | None, JobState | None], timedelta] = {}
    for rule in filter(None, (part.strip() for part in text.split(","))):
        whose, sign, age = (part.strip() for part in rule.partition("="))
        if not sign:
            raise ValueError(
                f"{rule!r} must be a state, a tenant or tenant/state, then = and an age"
            )
        key = _parse_key(rule, whose)
        if key in rules:
            raise ValueError(f"{whose!r} has two rules")
        rules[key] = _parse_age(rule, age)
    return rules


def _parse_key(rule: str, whose: str) -> tuple[str | None, JobState | None]:
    tenant, slash, name = (part.strip() for part in whose.partition("/"))
    if not slash and whose in set(JobState):
        tenant, name = "", whose
    elif not tenant or (slash and not name):
        raise ValueError(f"{rule!r} must name a state, a tenant or tenant/state")
    if not name:
        return tenant, None
    if name not in TERMINAL:
        raise ValueError(f"{rule!r}: {name!r} is no state in which jobs have ended ({_STATES})")
    return tenant or None, JobState(name)


def _parse_age(rule: str, age: str) -> timedelta:
    match = _AGE.fullmatch(age)
    if match is None:
        raise ValueError(f"{rule!r}: {age!r} must be a number of seconds, or one with s, m, h or d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= _LONGEST.total_seconds():
        raise ValueError(f"{rule!r}: {age!r} must be more than 0 and at most {_LONGEST.days}d")
    return timedelta(seconds=seconds)
