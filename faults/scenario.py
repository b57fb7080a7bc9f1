"""Fault scenarios, each defined in a file of `scenarios/`."""

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
    """A fault in a running platform.

    Args:
        id: `F7`.
        title: the fault, in one line.
        shows: the invariants for which the trial must have evidence. Invariants with evidence are
            always checked.
        run: starts the load, injects the fault and measures. The runner then waits for the end of
            all jobs and judges the evidence.
        plan: the processes.
        usual, usual_short: duration of a trial in seconds, in full and with shorter waits; used to
            choose scenarios that fit a time budget.
        unsupported: returns why this machine cannot run the scenario; empty if it can. Such a
            trial is reported as not run.
        timeout: longest duration of a trial, in seconds.
    """

    id: str
    title: str
    shows: tuple[str, ...]
    run: Callable[[Trial], Awaitable[None]]
    plan: Plan = field(default_factory=Plan)
    usual: float = 90.0
    usual_short: float = 75.0
    unsupported: Callable[[], str] = str
    timeout: float = 600.0

    def __post_init__(self) -> None:
        unknown = set(self.shows) - set(INVARIANTS)
        if unknown:
            raise ValueError(f"{self.id}: unknown invariants: {', '.join(sorted(unknown))}")

    def seconds(self, *, short: bool) -> float:
        """Return the usual duration of a trial in seconds."""
        return self.usual_short if short else self.usual


def find_scenarios() -> dict[str, Scenario]:
    """Return all scenarios by id, in the order of their numbers."""
    found: list[Scenario] = [
        import_module(f"{scenarios.__name__}.{module.name}").SCENARIO
        for module in pkgutil.iter_modules(scenarios.__path__)
    ]
    return {scenario.id: scenario for scenario in sorted(found, key=lambda s: int(s.id[1:]))}
