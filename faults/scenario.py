"""Scenarios: a file each in `scenarios/`, which says what it does and what it shows."""

from __future__ import annotations

import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module

from faults import scenarios
from faults.cluster import Plan
from faults.invariants import INVARIANTS
from faults.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A fault, done to a running platform.

    Args:
        id: `F7`.
        title: what is done, in a line.
        shows: the invariants for which there must be something to look at; all that apply are
            checked in any case.
        run: does it: starts the load, makes the fault, measures. What it leaves running is brought
            to its end, and everything is judged behind it.
        plan: the processes.
        usual, usual_short: seconds that a trial takes, in full and with shorter waits: by these a
            choice is made that fits into a time.
        cannot: says why this machine cannot do it, or nothing when it can. Such a trial is told as
            not run.
        timeout: seconds that all of it may take.
    """

    id: str
    title: str
    shows: tuple[str, ...]
    run: Callable[[Trial], Awaitable[None]]
    plan: Plan = field(default_factory=Plan)
    usual: float = 90.0
    usual_short: float = 75.0
    cannot: Callable[[], str] = str
    timeout: float = 600.0

    def __post_init__(self) -> None:
        unknown = set(self.shows) - set(INVARIANTS)
        if unknown:
            raise ValueError(f"{self.id}: no such invariant: {', '.join(sorted(unknown))}")

    def seconds(self, *, short: bool) -> float:
        """How long a trial usually takes."""
        return self.usual_short if short else self.usual


def find_scenarios() -> dict[str, Scenario]:
    """All scenarios by id, in the order of their numbers."""
    found: list[Scenario] = [
        import_module(f"{scenarios.__name__}.{module.name}").SCENARIO
        for module in pkgutil.iter_modules(scenarios.__path__)
    ]
    return {scenario.id: scenario for scenario in sorted(found, key=lambda s: int(s.id[1:]))}
