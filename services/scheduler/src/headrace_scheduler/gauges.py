"""What a scheduler can tell of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Gauges:
    """Plain numbers; `headrace_scheduler.metrics` serves them.

    Attributes:
        leading: whether it leads.
        term: its newest term; 0 before it has led.
        stale_writes: how many of its statements were refused, as its term was over.
        taken_back: jobs that it has taken back from lost workers.
        pruned: jobs that it has pruned.
    """

    leading: bool = False
    term: int = 0
    stale_writes: int = 0
    taken_back: int = 0
    pruned: int = 0
